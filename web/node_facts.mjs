// What a plan needs to know of a node and of those before it. Reads LiteGraph's nodes, changes nothing.

const LOADER = 'CreativeUpscaler_LoadModels'
const LORA = 'CreativeUpscaler_AddLora'
const MOST_NODES = 100 // followed along links, should they ever form a ring

/** The node that a link brings to an input, seen through reroutes; null where there is none. */
export function sourceOf(node, name) {
  let [here, slot] = [node, slotOf(node, name)]
  for (let count = 0; here && slot >= 0 && count < MOST_NODES; count++) {
    here = here.getInputNode?.(slot) ?? null
    if (here?.type !== 'Reroute') return here
    slot = 0
  }
  return null
}

/** Values of a node's widgets by name, without long texts, and the names of those that a link decides. */
export function settingsOf(node) {
  const described = inputsOf(node)
  const settings = {}
  const unknown = []
  for (const { name, value } of node.widgets ?? []) {
    if (!(name in described) || described[name]?.[1]?.multiline) continue
    settings[name] = value
    if (isLinked(node, name)) unknown.push(name)
  }
  return { settings, unknown }
}

/** Widget values of the loader behind the input `models`, or null. */
export function loaderOf(node) {
  let here = sourceOf(node, 'models')
  for (let count = 0; here?.type === LORA && count < MOST_NODES; count++) here = sourceOf(here, 'models')
  if (here?.type !== LOADER) return null
  const { settings } = settingsOf(here)
  const { checkpoint, controlnet, model_type } = settings
  return { checkpoint, controlnet, model_type }
}

/** The file that a Load Image node at the input `image` shows, as /view asks for it, or null. */
export function pictureFile(node) {
  const source = sourceOf(node, 'image')
  if (source?.type !== 'LoadImage') return null
  const value = source.widgets?.find((widget) => widget.name === 'image')?.value
  return typeof value === 'string' && value ? parseFile(value) : null
}

/** "folder/name.png [output]" as ComfyUI writes it. */
export function parseFile(text) {
  const [, path, type] = text.match(/^(.*?)(?: \[(input|output|temp)\])?$/s)
  const cut = path.lastIndexOf('/')
  return { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type: type ?? 'input' }
}

function slotOf(node, name) {
  return node.inputs?.findIndex((input) => input.name === name) ?? -1
}

function isLinked(node, name) {
  return node.inputs?.some((input) => input.widget?.name === name && input.link != null) ?? false
}

function inputsOf(node) {
  const { required, optional } = node.constructor.nodeData?.input ?? {}
  return { ...required, ...optional }
}
