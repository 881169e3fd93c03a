// Where two pictures and the divider between them are on a stage. Plain numbers, no page.
//
// Sizes are { width, height }. A view is { scale, x, y }: the picture's size on the stage in units of its
// own, and where its top left corner is. Both pictures have the same view, so they move in step.

export const LARGEST_SCALE = 8 // a pixel of the picture on the screen, in pixels of the screen
const STEP = 1 // of the divider, in percent, for an arrow key
const LEAP = 10 // the same with Shift, or for Page Up and Page Down
const PAN_STEP = 40

/** The view in which the whole picture is seen, as large as it can be. */
export function fit(stage, picture) {
  const scale = Math.min(stage.width / picture.width, stage.height / picture.height)
  return settle({ scale, x: 0, y: 0 }, stage, picture)
}

/** Centred where there is room, else without a gap at any edge. */
export function settle(view, stage, picture) {
  const place = (offset, room, length) =>
    length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, offset))
  return {
    scale: view.scale,
    x: place(view.x, stage.width, picture.width * view.scale),
    y: place(view.y, stage.height, picture.height * view.scale)
  }
}

/**
 * Another scale, around a point of the stage that stays where it is. `pixel` is the scale at which a pixel
 * of the picture is one of the screen; it can always be had, and the scale of `fit` is else the smallest.
 */
export function zoomTo(view, wanted, point, stage, picture, pixel = 1) {
  const smallest = Math.min(fit(stage, picture).scale, pixel)
  const scale = Math.min(Math.max(wanted, smallest), LARGEST_SCALE * pixel)
  const factor = scale / view.scale
  return settle(
    { scale, x: point.x - (point.x - view.x) * factor, y: point.y - (point.y - view.y) * factor },
    stage,
    picture
  )
}

export function panBy(view, dx, dy, stage, picture) {
  return settle({ ...view, x: view.x + dx, y: view.y + dy }, stage, picture)
}

/** Whether the whole picture is seen. */
export function isWhole(view, stage, picture) {
  return view.scale <= fit(stage, picture).scale * 1.001
}

/** The part of the stage's width in which there is picture: [left, right]. */
export function visibleSpan(view, stage, picture) {
  return [Math.max(0, view.x), Math.min(stage.width, view.x + picture.width * view.scale)]
}

/** The divider's place on the stage for a position of 0 to 100 percent of what is seen of the picture. */
export function dividerPlace(position, [left, right]) {
  return left + ((right - left) * position) / 100
}

/** The position that puts the divider at `x` of the stage. */
export function positionAt(x, [left, right]) {
  return right > left ? Math.min(100, Math.max(0, ((x - left) / (right - left)) * 100)) : 50
}

/** The position after a key on the slider, or null for a key that does not move it. */
export function positionAfterKey(position, key, withShift = false) {
  const step = withShift ? LEAP : STEP
  const moves = {
    ArrowLeft: -step,
    ArrowDown: -step,
    ArrowRight: step,
    ArrowUp: step,
    PageDown: -LEAP,
    PageUp: LEAP,
    Home: -Infinity,
    End: Infinity
  }
  return key in moves ? Math.min(100, Math.max(0, position + moves[key])) : null
}

/** How far a key on the pictures pans them, [dx, dy], or null. */
export function panOfKey(key) {
  return (
    {
      ArrowLeft: [PAN_STEP, 0],
      ArrowRight: [-PAN_STEP, 0],
      ArrowUp: [0, PAN_STEP],
      ArrowDown: [0, -PAN_STEP]
    }[key] ?? null
  )
}
