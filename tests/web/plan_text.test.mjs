import assert from 'node:assert/strict'
import { test } from 'node:test'

import { bytesText, describe } from '../../web/plan_text.mjs'

const pass = { size: [2048, 1024], tiles: [3, 2], steps: 10, evaluations: 60 }
const memory = { least: 3.2e9, expected: 3.2e9, batch: 1 }
const plan = { source: [1024, 512], size: [2048, 1024], pictures: 1, passes: [pass], evaluations: 60, memory }
const answer = (changes) => ({ plan: { ...plan, ...changes }, warnings: [], notes: [] })

test('a plan is told in numbers', () => {
  const shown = describe(answer())
  assert.equal(shown.headline, '2048 × 1024 px')
  assert.equal(shown.brief, '2048 × 1024 px · 60 evaluations')
  assert.deepEqual(shown.rows, [
    ['Source', '1024 × 512 px'],
    ['Pass', '3 × 2 tiles, 10 steps'],
    ['Work', '60 network evaluations'],
    ['Memory', 'about 3.2 GB']
  ])
})

test('several passes are told apart, and one tile, step or evaluation is not many', () => {
  const one = { size: [1024, 512], tiles: [1, 1], steps: 1 }
  const shown = describe(answer({ passes: [one, pass], evaluations: 1 }))
  assert.deepEqual(shown.rows[1], ['Pass 1', '1024 × 512 px, 1 tile, 1 step'])
  assert.deepEqual(shown.rows[2], ['Pass 2', '2048 × 1024 px, 3 × 2 tiles, 10 steps'])
  assert.deepEqual(shown.rows[3], ['Work', '1 network evaluation'])
})

test('a batch says that its numbers are for all of it', () => {
  const shown = describe(answer({ pictures: 3, evaluations: 12345 }))
  assert.deepEqual(shown.rows[0], ['Source', '3 pictures of 1024 × 512 px'])
  assert.deepEqual(shown.rows[2], ['Work', '12,345 network evaluations for all pictures'])
})

test('without a redraw there is no work to speak of', () => {
  const shown = describe(answer({ passes: [], evaluations: 0 }))
  assert.deepEqual(shown.rows.at(-1), ['Work', 'no redraw: resized at once'])
  assert.equal(shown.brief, '2048 × 1024 px')
})

test('what is missing, or refused, is said in place of a plan', () => {
  const none = { plan: null, refused: false, warnings: ['creativity .7'], notes: ['a note'] }
  assert.equal(describe(none, 'Connect a picture').headline, 'Connect a picture')
  assert.deepEqual(describe(none).notes, ['a note'])
  const refused = { plan: null, refused: true, warnings: ['the result would be too large'], notes: [] }
  assert.equal(describe(refused, 'Connect a picture').headline, 'Cannot run like this')
})

test('memory is told in two figures, for one tile too where a batch takes more', () => {
  assert.deepEqual([5e5, 42e6, 0.25e9, 9.94e9, 23.6e9].map(bytesText), ['1 MB', '42 MB', '0.3 GB', '9.9 GB', '24 GB'])
  const shown = describe(answer({ memory: { least: 3e9, expected: 6e9, batch: 8 } }))
  assert.deepEqual(shown.rows.at(-1), ['Memory', 'about 6.0 GB with 8 tiles at once, 3.0 GB with one'])
})
