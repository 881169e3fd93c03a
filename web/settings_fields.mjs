// Parts of the settings page: talking to the server, texts in the user's language, and form fields.
// The strings are those of locales/<language>/main.json under "creativeUpscaler".

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

const translations = await api
  .fetchApi('/i18n')
  .then((answer) => answer.json())
  .catch(() => ({}))

export function text(key, values = {}) {
  const language = app.extensionManager?.setting?.get('Comfy.Locale') ?? 'en'
  const found =
    translations[language]?.creativeUpscaler?.[key] ?? translations.en?.creativeUpscaler?.[key] ?? key
  return found.replace(/<(\w+)>/g, (whole, name) => values[name] ?? whole)
}

export async function send(method, path, body) {
  const options = body && {
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body)
  }
  const answer = await api.fetchApi(`/creative_upscaler/${path}`, { method, ...options })
  const content = await answer.json().catch(() => ({}))
  if (!answer.ok) throw new Error(content.error ?? text('serverAnswered', { status: answer.status }))
  return content
}

export function makeField(kind, label, value = '') {
  const field = document.createElement(kind === 'lines' ? 'textarea' : 'input')
  if (kind === 'lines') field.rows = 3
  else field.type = kind
  field.value = value
  field.ariaLabel = label
  field.autocomplete = 'off'
  field.spellcheck = false
  field.style.cssText =
    'padding: 0.25em 0.5em; border: 1px solid var(--border-color); border-radius: 4px; ' +
    'background: var(--comfy-input-bg); color: var(--input-text); ' +
    (kind === 'lines' ? 'width: 24em; max-width: 100%' : 'width: 9em')
  return field
}

export function makeButton(label, action) {
  const button = document.createElement('button')
  button.type = 'button'
  button.textContent = label
  button.style.cssText =
    'padding: 0.25em 0.75em; border: 1px solid var(--border-color); border-radius: 4px; ' +
    'background: var(--comfy-input-bg); color: var(--input-text)'
  button.addEventListener('click', action)
  return button
}

// A row of fields over a line that says what became of them.
export function makePanel(name, fields) {
  const row = document.createElement('div')
  row.style.cssText = 'display: flex; flex-wrap: wrap; gap: 0.5em; align-items: center'
  row.append(...fields)
  const status = document.createElement('div')
  status.setAttribute('role', 'status')
  status.style.cssText = 'overflow-wrap: anywhere; font-size: 0.9em'
  const element = document.createElement('div')
  element.className = `creative-upscaler-setting creative-upscaler-${name}`
  element.style.cssText = 'display: flex; flex-direction: column; gap: 0.25em; max-width: 28em'
  element.append(row, status)
  const say = (message, isProblem = false) => {
    status.textContent = message
    status.style.color = isProblem ? 'var(--error-text, #ff6b6b)' : ''
  }
  return { element, say }
}
