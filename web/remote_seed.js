// New nodes of the remote service keep their seed: a new seed for every run, as ComfyUI sets by default, would
// be a new request, and paid, each time.

import { app } from '../../scripts/app.js'

const NODES = ['CreativeUpscaler_Remote', 'CreativeUpscaler_RemoteSubmit']

app.registerExtension({
  name: 'CreativeUpscaler.RemoteSeed',
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return
    const control = node.widgets?.find((widget) => widget.name === 'control_after_generate')
    if (control) control.value = 'fixed' // a saved workflow's own choice is set after this
  }
})
