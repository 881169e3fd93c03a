// The pack's part of the settings dialog, as the server declares it (nodes/settings_page.py). Values are kept
// and enforced on the server, not among ComfyUI's settings. A key that is typed goes to the server once, to a
// route that never tells it again; it is stored neither as a setting nor in the browser.

import { app } from '../../scripts/app.js'
import { makeButton, makeField, makePanel, send, text } from './settings_fields.mjs'

async function describeKeys() {
  const { credentials } = await send('GET', 'remote')
  const names = credentials.map(({ name, source }) =>
    source === 'environment' ? text('fromEnvironment', { name }) : name
  )
  return names.length ? text('keysSet', { names: names.join(', ') }) : text('noKey')
}

function renderKeys() {
  const name = makeField('text', text('name'), 'default')
  const key = makeField('password', text('key'))
  key.placeholder = text('key')
  const change = async (method, body) => {
    key.value = ''
    try {
      await send(method, 'credentials', body)
      panel.say(await describeKeys())
    } catch (error) {
      panel.say(error.message, true)
    }
  }
  const save = () => change('POST', { name: name.value.trim(), key: key.value })
  const forget = () => change('DELETE', { name: name.value.trim() })
  const panel = makePanel('keys', [
    name,
    key,
    makeButton(text('save'), save),
    makeButton(text('forget'), forget)
  ])
  describeKeys().then(panel.say, (error) => panel.say(error.message, true))
  return panel.element
}

// What is shown of a value, and the value of what is typed.
const FORMS = {
  number: {
    show: (value) => String(value),
    read: (typed) => (typed.trim() === '' ? null : Number(typed))
  },
  trusted_hosts: {
    show: (value) => value.join('\n'),
    read: (typed) => typed.split(/\s+/).filter(Boolean)
  },
  servers: {
    show: (value) => Object.entries(value).map((pair) => pair.join(' ')).join('\n'),
    read: (typed) =>
      Object.fromEntries(
        typed
          .split('\n')
          .map((line) => line.trim())
          .filter(Boolean)
          .map((line) => [line.split(/\s+/)[0], line.split(/\s+/).slice(1).join(' ')])
      )
  }
}

function renderValue(row) {
  const form = FORMS[row.kind]
  const field = makeField(row.kind === 'number' ? 'number' : 'lines', row.label)
  const parts = [field]
  if (row.kind === 'number') {
    field.min = row.minimum
    field.max = row.maximum
    field.step = 'any'
    field.placeholder = form.show(row.default)
    parts.push(row.unit)
  }
  const save = async () => {
    // The browser shows such a text and gives an empty one, which would mean the default.
    if (field.validity.badInput) return panel.say(text('noNumber'), true)
    try {
      const { values } = await send('POST', 'settings', { name: row.name, value: form.read(field.value) })
      field.value = form.show(values[row.name])
      panel.say(text('saved'))
    } catch (error) {
      panel.say(error.message, true)
    }
  }
  if (row.kind === 'number') field.addEventListener('change', save)
  else parts.push(makeButton(text('save'), save))
  const panel = makePanel(row.name, parts)
  send('GET', 'settings').then(
    ({ values, error }) => (error ? panel.say(error, true) : (field.value = form.show(values[row.name]))),
    (error) => panel.say(error.message, true)
  )
  return panel.element
}

const declared = await send('GET', 'settings').catch((error) => {
  console.warn('Creative Upscaler: no settings:', error.message)
  return { rows: [] }
})

app.registerExtension({
  name: 'CreativeUpscaler.Settings',
  settings: declared.rows.map((row) => ({
    id: row.id,
    name: row.label,
    category: [declared.heading, row.group, row.label],
    tooltip: row.help,
    type: row.kind === 'keys' ? renderKeys : () => renderValue(row),
    defaultValue: null
  }))
})
