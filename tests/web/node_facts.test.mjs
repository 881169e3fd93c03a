import assert from 'node:assert/strict'
import { test } from 'node:test'

import { loaderOf, parseFile, pictureFile, settingsOf, sourceOf } from '../../web/node_facts.mjs'

/** A node as LiteGraph has it; `sources` are the nodes linked to its inputs, by name. */
function makeNode(type, { widgets = {}, described = {}, sources = {}, linked = [] } = {}) {
  const names = Object.keys(sources)
  const inputs = [
    ...names.map((name) => ({ name, link: 1 })),
    ...linked.map((name) => ({ name, link: 2, widget: { name } }))
  ]
  class Node {
    static nodeData = { input: { required: described } }
  }
  return Object.assign(new Node(), {
    type,
    inputs,
    widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
    getInputNode: (slot) => sources[names[slot]] ?? null
  })
}

const described = { scale: ['FLOAT', {}], prompt: ['STRING', { multiline: true }], seed: ['INT', {}] }

test('settings are the described widgets without long texts', () => {
  const widgets = { scale: 2, prompt: 'private', seed: 5, control_after_generate: 'fixed', panel: '' }
  const node = makeNode('any', { widgets, described, linked: ['seed'] })
  assert.deepEqual(settingsOf(node), { settings: { scale: 2, seed: 5 }, unknown: ['seed'] })
})

test('the loader is found behind LoRAs and reroutes', () => {
  const chosen = { checkpoint: 'a.safetensors', controlnet: 'none', model_type: 'auto' }
  const types = { checkpoint: ['COMBO'], controlnet: ['COMBO'], model_type: ['COMBO'] }
  const loader = makeNode('CreativeUpscaler_LoadModels', { widgets: { ...chosen, vae: 'x' }, described: types })
  const reroute = makeNode('Reroute', { sources: { '': loader } })
  const lora = makeNode('CreativeUpscaler_AddLora', { sources: { models: reroute } })
  assert.deepEqual(loaderOf(makeNode('any', { sources: { models: lora } })), chosen)
  assert.equal(loaderOf(makeNode('any')), null)
  assert.equal(loaderOf(makeNode('any', { sources: { models: makeNode('Other') } })), null)
})

test('a ring of reroutes leads nowhere', () => {
  const ring = makeNode('Reroute')
  ring.getInputNode = () => ring
  assert.equal(sourceOf(makeNode('any', { sources: { image: ring } }), 'image'), null)
})

test('the picture is that of a Load Image node only', () => {
  const load = makeNode('LoadImage', { widgets: { image: 'folder/a b.png [output]' } })
  const file = { filename: 'a b.png', subfolder: 'folder', type: 'output' }
  assert.deepEqual(pictureFile(makeNode('any', { sources: { image: load } })), file)
  assert.equal(pictureFile(makeNode('any', { sources: { image: makeNode('VAEDecode') } })), null)
  assert.deepEqual(parseFile('plain.png'), { filename: 'plain.png', subfolder: '', type: 'input' })
})
