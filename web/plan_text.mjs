// The words for a plan, from the numbers that the server answers. Plain text, no page.

const GIGABYTE = 1e9

export function sizeText([width, height]) {
  return `${width} × ${height} px`
}

export function countText(number, one, many = `${one}s`) {
  return `${number.toLocaleString('en-US')} ${number === 1 ? one : many}`
}

export function bytesText(bytes) {
  if (bytes >= 10 * GIGABYTE) return `${Math.round(bytes / GIGABYTE)} GB`
  return bytes >= GIGABYTE / 10
    ? `${(bytes / GIGABYTE).toFixed(1)} GB`
    : `${Math.max(1, Math.round(bytes / 1e6))} MB`
}

/**
 * What to show of an answer: `headline`, `rows` of [label, text], `warnings`, `notes`, all texts, and
 * `brief`, one line. `missing` says what stands in for a plan that the server could not make.
 */
export function describe(answer, missing = '') {
  const { plan, refused, warnings, notes } = answer
  if (!plan) {
    const headline = refused ? 'Cannot run like this' : missing
    return { headline, rows: [], warnings, notes, brief: refused ? 'cannot run like this' : '' }
  }
  const rows = [['Source', pictureText(plan)], ...passRows(plan)]
  rows.push(['Work', workText(plan)])
  if (plan.passes.length) rows.push(['Memory', memoryText(plan.memory)])
  const size = sizeText(plan.size)
  return {
    headline: size,
    rows,
    warnings,
    notes,
    brief: plan.passes.length ? `${size} · ${countText(plan.evaluations, 'evaluation')}` : size
  }
}

function pictureText({ source, pictures }) {
  return pictures > 1 ? `${pictures} pictures of ${sizeText(source)}` : sizeText(source)
}

function passRows({ passes }) {
  return passes.map(({ size, tiles: [columns, rows], steps }, index) => {
    const label = passes.length > 1 ? `Pass ${index + 1}` : 'Pass'
    const tiles = columns * rows === 1 ? '1 tile' : `${columns} × ${rows} tiles`
    const result = passes.length > 1 ? `${sizeText(size)}, ` : ''
    return [label, `${result}${tiles}, ${countText(steps, 'step')}`]
  })
}

function workText({ passes, evaluations, pictures }) {
  if (!passes.length) return 'no redraw: resized at once'
  const all = pictures > 1 ? ' for all pictures' : ''
  return `${countText(evaluations, 'network evaluation')}${all}`
}

function memoryText({ least, expected, batch }) {
  const about = `about ${bytesText(expected)}`
  return batch > 1 && expected > least * 1.05
    ? `${about} with ${batch} tiles at once, ${bytesText(least)} with one`
    : about
}
