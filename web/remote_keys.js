// A settings field that keeps keys for the remote nodes. What is typed goes to the server once, to a route
// that never tells it again; it is stored neither as a setting nor in the browser.

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

async function send(method, body) {
  const headers = { 'Content-Type': 'application/json' }
  const answer = await api.fetchApi('/creative_upscaler/credentials', {
    method,
    headers,
    body: JSON.stringify(body)
  })
  const content = await answer.json().catch(() => ({}))
  if (!answer.ok) throw new Error(content.error ?? `the server answered ${answer.status}`)
}

async function describeKeys() {
  const answer = await api.fetchApi('/creative_upscaler/remote')
  const content = await answer.json().catch(() => ({}))
  if (!answer.ok) return content.error ?? `The server answered ${answer.status}.`
  const names = content.credentials.map(({ name, source }) =>
    source === 'environment' ? `${name} (FAL_KEY of the environment)` : name
  )
  return names.length ? `Keys that are set: ${names.join(', ')}` : 'No key is set.'
}

function makeField(kind, label, value = '') {
  const field = document.createElement('input')
  field.type = kind
  field.value = value
  field.placeholder = label
  field.ariaLabel = label
  field.autocomplete = 'off'
  field.spellcheck = false
  field.style.width = '9em'
  return field
}

function makeButton(label, action) {
  const button = document.createElement('button')
  button.type = 'button'
  button.textContent = label
  button.addEventListener('click', action)
  return button
}

function renderKeys() {
  const name = makeField('text', 'Name', 'default')
  const key = makeField('password', 'Key')
  const status = document.createElement('div')
  status.setAttribute('role', 'status')
  status.style.overflowWrap = 'anywhere'

  const show = () => describeKeys().then((text) => (status.textContent = text))
  const change = async (method, body) => {
    key.value = ''
    try {
      await send(method, body)
      await show()
    } catch (error) {
      status.textContent = error.message
    }
  }

  const row = document.createElement('div')
  row.style.cssText = 'display: flex; flex-wrap: wrap; gap: 0.5em'
  row.append(
    name,
    key,
    makeButton('Save', () => change('POST', { name: name.value.trim(), key: key.value })),
    makeButton('Forget', () => change('DELETE', { name: name.value.trim() }))
  )
  const element = document.createElement('div')
  element.className = 'creative-upscaler-keys'
  element.style.cssText = 'display: flex; flex-direction: column; gap: 0.5em; max-width: 28em'
  element.append(row, status)
  show()
  return element
}

app.registerExtension({
  name: 'CreativeUpscaler.RemoteKeys',
  settings: [
    {
      id: 'CreativeUpscaler.Keys',
      name: 'Keys of fal',
      category: ['Creative Upscaler', 'Remote', 'Keys'],
      tooltip: 'Kept on the server in a file that only its user can read. Workflows refer to keys by name.',
      type: renderKeys,
      defaultValue: null
    }
  ]
})
