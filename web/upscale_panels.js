// Puts a panel on every upscale node: the plan of the next run, and before and after of the last one.
// Nothing of it is saved in a workflow or sent with one.

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'
import { loaderOf, pictureFile, settingsOf, sourceOf } from './node_facts.mjs'
import { NodePanel } from './node_panel.mjs'

const PLANNED = ['CreativeUpscaler_Upscale']
const COMPARED = [
  ...PLANNED,
  'CreativeUpscaler_CCSRUpscale',
  'CreativeUpscaler_Remote',
  'CreativeUpscaler_UpscaleHostModel',
  'CreativeUpscaler_UpscaleHostModelAdvanced'
]
const OUTPUT = 'creative_upscaler_compare'
const WIDGET = 'creative_upscaler_panel'
const HEIGHT = 264
// Widgets, links and the loader's widgets can change in many ways, and not all of them tell anybody.
const WATCH_MILLISECONDS = 250

const CONNECT = 'Connect a Load Image node to see the plan here, or run once.'

const panels = new Map() // by node
const pictureSizes = new Map() // by address; null while unknown

function addressOf({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

/** Width and height of a picture, or null until the browser has read it. */
function pictureSize(file) {
  const address = addressOf(file)
  if (!pictureSizes.has(address)) {
    pictureSizes.set(address, null)
    const image = new Image()
    image.onload = () => pictureSizes.set(address, [image.naturalWidth, image.naturalHeight])
    image.src = address
  }
  return pictureSizes.get(address)
}

/** The picture that a node would get: its size as the file says, else as in the last run from there. */
function pictureOf(node, state) {
  const file = pictureFile(node)
  if (file) return { source: pictureSize(file), pictures: 1, isLoading: !pictureSize(file) }
  const isSame = state.last && sourceOf(node, 'image')?.id === state.last.from
  return isSame ? { source: state.last.source, pictures: state.last.pictures } : { source: null, pictures: 1 }
}

async function askForPlan(node, state) {
  const { source, pictures, isLoading } = pictureOf(node, state)
  const body = JSON.stringify({ ...settingsOf(node), models: loaderOf(node), source, pictures })
  if (body === state.asked || isLoading) return
  // What still changes is asked about when it has come to rest.
  if (body !== state.candidate) {
    state.candidate = body
    return
  }
  state.asked = body
  const headers = { 'Content-Type': 'application/json' }
  try {
    const response = await api.fetchApi('/creative_upscaler/plan', { method: 'POST', headers, body })
    const answer = await response.json()
    if (state.asked !== body) return
    if (!response.ok) throw new Error(answer.error)
    state.panel.showPlan(answer, CONNECT)
  } catch (error) {
    if (state.asked === body) {
      state.panel.showPlan({ plan: null, warnings: [], notes: [] }, `No plan: ${error.message}`)
    }
  }
}

/** What a run has shown of this node, also after its workflow was closed and opened again. */
function findOutput(node) {
  const key = node.graph?.isRootGraph === false ? `${node.graph.id}:${node.id}` : String(node.id)
  return app.nodeOutputs?.[key]?.[OUTPUT]
}

function showOutput(node, state, pairs) {
  state.pairs = pairs
  state.last = pairs.length
    ? { from: sourceOf(node, 'image')?.id, source: pairs[0].source, pictures: pairs[0].pictures }
    : null
  state.panel.showPairs(pairs)
}

function watch() {
  if (document.hidden) return
  for (const [node, state] of panels) {
    if (!node.graph) continue
    if (!state.pairs) {
      const pairs = findOutput(node)
      if (pairs) showOutput(node, state, pairs)
    }
    if (state.isPlanned) askForPlan(node, state)
  }
}

/** Over a node's element LiteGraph's canvas gets no wheel; Nodes 2.0 sees to it by itself. */
function passWheelOn(event) {
  const isOnNode = !event.target.closest('dialog') && !window.LiteGraph?.vueNodesMode
  if (isOnNode && !event.defaultPrevented) app.canvas.processMouseWheel(event)
}

/** Widgets that come after ours, such as the text of a run, are saved where they would be without it. */
function leaveNoGap(values, index) {
  if (values && index >= 0 && index < values.length) values.splice(index, 1)
}

function addPanel(node) {
  const isPlanned = PLANNED.includes(node.comfyClass)
  const panel = new NodePanel(addressOf, isPlanned)
  const widget = node.addDOMWidget(WIDGET, 'creative_upscaler_panel', panel.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getValue: () => '',
    setValue: () => {}
  })
  widget.serialize = false
  panel.compare.element.addEventListener('wheel', passWheelOn)
  const state = { panel, isPlanned, pairs: null, last: null, asked: '', candidate: '' }
  if (isPlanned) panel.showPlan({ plan: null, warnings: [], notes: [] }, CONNECT)
  panels.set(node, state)

  const { onExecuted, onRemoved, onSerialize } = node
  node.onSerialize = function (saved) {
    onSerialize?.apply(this, arguments)
    leaveNoGap(saved.widgets_values, node.widgets.indexOf(widget))
  }
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments)
    if (output?.[OUTPUT]) showOutput(node, state, output[OUTPUT])
  }
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments)
    panels.delete(node)
    panel.dispose()
  }
}

app.registerExtension({
  name: 'CreativeUpscaler.Panels',
  setup() {
    setInterval(watch, WATCH_MILLISECONDS)
  },
  nodeCreated(node) {
    if (COMPARED.includes(node.comfyClass)) addPanel(node)
  }
})
