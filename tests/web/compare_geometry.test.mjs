import assert from 'node:assert/strict'
import { test } from 'node:test'

import * as geometry from '../../web/compare_geometry.mjs'

const stage = { width: 400, height: 200 }
const wide = { width: 4000, height: 1000 }
const small = { width: 40, height: 40 }

test('a picture is fitted whole and centred', () => {
  assert.deepEqual(geometry.fit(stage, wide), { scale: 0.1, x: 0, y: 50 })
  assert.deepEqual(geometry.fit(stage, small), { scale: 5, x: 100, y: 0 })
})

test('the point under the pointer stays where it is while zooming', () => {
  const before = geometry.fit(stage, wide)
  const point = { x: 300, y: 100 }
  const after = geometry.zoomTo(before, 1, point, stage, wide)
  assert.equal(after.scale, 1)
  const seen = (view) => (point.x - view.x) / view.scale
  assert.ok(Math.abs(seen(after) - seen(before)) < 1e-9)
})

test('a zoom stays between the whole picture and the largest scale', () => {
  const view = geometry.fit(stage, wide)
  assert.deepEqual(geometry.zoomTo(view, 0.001, { x: 9, y: 9 }, stage, wide), view)
  assert.equal(geometry.zoomTo(view, 99, { x: 9, y: 9 }, stage, wide).scale, geometry.LARGEST_SCALE)
  assert.ok(geometry.isWhole(view, stage, wide))
  assert.ok(!geometry.isWhole(geometry.zoomTo(view, 1, { x: 0, y: 0 }, stage, wide), stage, wide))
})

test('a picture smaller than the stage can be seen pixel for pixel, too', () => {
  const view = geometry.zoomTo(geometry.fit(stage, small), 1, { x: 0, y: 0 }, stage, small)
  assert.deepEqual(view, { scale: 1, x: 180, y: 80 })
  // On a screen with two pixels to a unit that is half the size.
  assert.equal(geometry.zoomTo(view, 0.1, { x: 0, y: 0 }, stage, small, 0.5).scale, 0.5)
})

test('panning stops at the edges, and does nothing to a picture that is seen whole', () => {
  const view = geometry.zoomTo(geometry.fit(stage, wide), 1, { x: 0, y: 0 }, stage, wide)
  const far = geometry.panBy(view, -1e6, -1e6, stage, wide)
  assert.deepEqual(far, { scale: 1, x: -3600, y: -800 })
  assert.deepEqual(geometry.panBy(far, 1e6, 1e6, stage, wide), { scale: 1, x: 0, y: 0 })
  const fitted = geometry.fit(stage, small)
  assert.deepEqual(geometry.panBy(fitted, 30, 30, stage, small), fitted)
})

test('the divider runs over what is seen of the picture only', () => {
  const span = geometry.visibleSpan(geometry.fit(stage, small), stage, small)
  assert.deepEqual(span, [100, 300])
  assert.equal(geometry.dividerPlace(25, span), 150)
  assert.equal(geometry.positionAt(150, span), 25)
  assert.equal(geometry.positionAt(20, span), 0)
  assert.equal(geometry.positionAt(390, span), 100)
  const zoomed = geometry.zoomTo(geometry.fit(stage, wide), 1, { x: 0, y: 0 }, stage, wide)
  assert.deepEqual(geometry.visibleSpan(zoomed, stage, wide), [0, 400])
})

test('keys move the slider as a slider has to move', () => {
  const after = (key, shift) => geometry.positionAfterKey(50, key, shift)
  assert.deepEqual([after('ArrowLeft'), after('ArrowRight')], [49, 51])
  assert.deepEqual([after('ArrowDown'), after('ArrowUp')], [49, 51])
  assert.deepEqual([after('ArrowLeft', true), after('PageUp')], [40, 60])
  assert.deepEqual([after('Home'), after('End'), after('a'), after('Tab')], [0, 100, null, null])
  assert.deepEqual([geometry.positionAfterKey(100, 'End'), geometry.positionAfterKey(0, 'PageDown')], [100, 0])
})

test('arrow keys on the pictures pan towards what they point at', () => {
  assert.ok(geometry.panOfKey('ArrowRight')[0] < 0)
  assert.ok(geometry.panOfKey('ArrowUp')[1] > 0)
  assert.equal(geometry.panOfKey('Enter'), null)
})
