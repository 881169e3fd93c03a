// The panel on an upscale node: the plan of the next run, and before and after of the last one.

import { CompareView } from './compare_view.mjs'
import { addStyle, make } from './panel_style.mjs'
import { describe } from './plan_text.mjs'

let made = 0

export class NodePanel {
  /** Without `hasPlan` there is the comparison only. */
  constructor(addressOf, hasPlan) {
    addStyle()
    const id = `cu-panel-${++made}`
    this.compare = new CompareView(addressOf)
    this.plan = make('div', 'cu-plan', { tabindex: '0' })
    this.brief = make('span', 'cu-brief', { 'aria-live': 'polite' })
    this.mark = make('span', 'cu-mark', { 'aria-label': 'has warnings' }, '⚠')
    this.views = { plan: this.plan, compare: this.compare.element }
    this.tabs = { plan: this.#makeTab('plan', id, 'Plan', this.mark), compare: this.#makeTab('compare', id, 'Compare') }
    const list = make('div', 'cu-bar', { role: 'tablist' }, this.tabs.plan, this.tabs.compare)
    list.addEventListener('keydown', (event) => this.#moveBetweenTabs(event))
    this.bar = make('div', 'cu-bar', {}, list, this.brief)
    this.bar.hidden = !hasPlan
    this.element = make('div', 'cu-panel', {}, this.bar, this.plan, this.compare.element)
    this.mark.hidden = true
    this.select(hasPlan ? 'plan' : 'compare')
  }

  select(name) {
    for (const [key, view] of Object.entries(this.views)) {
      view.hidden = key !== name
      this.tabs[key].setAttribute('aria-selected', String(key === name))
      this.tabs[key].tabIndex = key === name ? 0 : -1
    }
    this.compare.layOut()
  }

  showPairs(pairs) {
    this.compare.setPairs(pairs)
    if (pairs.length) this.select('compare')
  }

  showPlan(answer, missing) {
    const { headline, rows, warnings, notes, brief } = describe(answer, missing)
    const list = make('dl', 'cu-rows')
    for (const [label, text] of rows) list.append(make('dt', '', {}, label), make('dd', '', {}, text))
    const remarks = make('ul', 'cu-remarks')
    for (const text of warnings) remarks.append(make('li', 'cu-warning', {}, text))
    for (const text of notes) remarks.append(make('li', '', {}, text))
    const quiet = answer.plan || answer.refused ? '' : ' cu-quiet'
    this.plan.replaceChildren(make('div', `cu-headline${quiet}`, {}, headline), list, remarks)
    this.brief.textContent = brief
    this.mark.hidden = warnings.length === 0
  }

  dispose() {
    this.compare.dispose()
  }

  #makeTab(name, id, ...children) {
    const tab = make('button', '', { type: 'button', role: 'tab', id: `${id}-${name}-tab`, 'aria-controls': `${id}-${name}` }, ...children)
    const view = this.views[name]
    view.id = `${id}-${name}`
    view.setAttribute('role', 'tabpanel')
    view.setAttribute('aria-labelledby', tab.id)
    tab.addEventListener('click', () => this.select(name))
    return tab
  }

  #moveBetweenTabs(event) {
    if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return
    event.preventDefault()
    event.stopPropagation()
    const other = this.plan.hidden ? 'plan' : 'compare'
    this.select(other)
    this.tabs[other].focus()
  }
}
