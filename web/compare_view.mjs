// Before and after of a run, one over the other, with a divider to drag; zoomed and panned in step.

import {
  dividerPlace, fit, isWhole, panBy, panOfKey, positionAfterKey, positionAt, settle, visibleSpan, zoomTo
} from './compare_geometry.mjs'
import { make, makeButton } from './panel_style.mjs'
import { sizeText } from './plan_text.mjs'

const ZOOM_FACTOR = 1.5
const TAG_ROOM = 70 // pixels that a label needs beside the divider

const NONE = 'Before and after appear here when this node has run.'
const GONE = 'These pictures are no longer there. Run again to compare.'

export class CompareView {
  #pairs = []
  #shown = 0
  #position = 50
  #view = null
  #picture = null
  #fitted = true
  #drag = null

  /** `addressOf` gives the address of a picture that a node has saved. */
  constructor(addressOf) {
    this.addressOf = addressOf
    this.before = make('img', '', { alt: 'Before', draggable: 'false' })
    this.after = make('img', '', { alt: 'After', draggable: 'false' })
    this.layers = [this.before, this.after].map((image) => make('div', 'cu-layer', {}, image))
    this.divider = make('div', 'cu-divider', {
      role: 'slider',
      tabindex: '0',
      'aria-label': 'Divider between before and after',
      'aria-orientation': 'horizontal',
      'aria-valuemin': '0',
      'aria-valuemax': '100'
    })
    this.tags = ['Before', 'After'].map((text) => make('span', `cu-tag cu-tag-${text.toLowerCase()}`, {}, text))
    this.empty = make('div', 'cu-empty', { role: 'status' }, NONE)
    this.stage = make(
      'div',
      'cu-stage',
      { role: 'group', 'aria-label': 'Before and after; arrow keys pan, plus and minus zoom, 0 fits, 1 is 1:1' },
      ...this.layers,
      this.divider,
      ...this.tags,
      this.empty
    )
    this.element = make('div', 'cu-compare', {}, this.stage, this.#makeTools())
    this.#listen()
    this.#show()
  }

  get isEmpty() {
    return this.#pairs.length === 0
  }

  /** Show pairs of saved pictures as `nodes/compare.py` tells them. */
  setPairs(pairs) {
    this.#pairs = pairs
    this.#shown = Math.min(this.#shown, Math.max(pairs.length - 1, 0))
    this.#show()
  }

  /** Forget the size of the stage, which somebody else has changed. */
  layOut() {
    if (!this.#picture || !this.stage.clientWidth) return
    const stage = this.#stageSize()
    this.#view = this.#fitted ? fit(stage, this.#picture) : settle(this.#view, stage, this.#picture)
    this.#draw()
  }

  dispose() {
    this.observer.disconnect()
    this.dialog?.close()
  }

  #makeTools() {
    this.zoomText = make('span', 'cu-zoom', { 'aria-live': 'polite' })
    this.count = make('span', 'cu-zoom')
    this.sizes = make('span', 'cu-brief')
    this.tools = [
      makeButton('Fit', 'Fit (0)', () => this.#fit()),
      makeButton('1:1', 'Pixel for pixel (1)', () => this.#zoomToPixels()),
      makeButton('−', 'Zoom out (−)', () => this.#zoomBy(1 / ZOOM_FACTOR)),
      this.zoomText,
      makeButton('+', 'Zoom in (+)', () => this.#zoomBy(ZOOM_FACTOR))
    ]
    this.picker = make(
      'span',
      'cu-tools',
      {},
      makeButton('‹', 'Previous picture', () => this.#choose(this.#shown - 1)),
      this.count,
      makeButton('›', 'Next picture', () => this.#choose(this.#shown + 1))
    )
    this.enlarge = makeButton('Enlarge', 'Open in the whole window', () => this.#toggleDialog())
    return make('div', 'cu-tools', {}, ...this.tools, this.sizes, this.picker, this.enlarge)
  }

  #listen() {
    this.observer = new ResizeObserver(() => this.layOut())
    this.observer.observe(this.stage)
    this.after.addEventListener('load', () => this.#loaded())
    for (const image of [this.before, this.after]) image.addEventListener('error', () => this.#failed(image))
    this.stage.addEventListener('pointerdown', (event) => this.#press(event))
    this.stage.addEventListener('pointermove', (event) => this.#move(event))
    for (const end of ['pointerup', 'pointercancel']) {
      this.stage.addEventListener(end, () => this.#release())
    }
    this.stage.addEventListener('wheel', (event) => this.#wheel(event), { passive: false })
    // ComfyUI's word for elements that keep the wheel to themselves.
    this.stage.addEventListener('focusin', () => (this.stage.dataset.captureWheel = 'true'))
    this.stage.addEventListener('focusout', () => delete this.stage.dataset.captureWheel)
    this.stage.addEventListener('dblclick', (event) => this.#toggleZoom(event))
    this.divider.addEventListener('keydown', (event) => this.#slide(event))
    this.stage.addEventListener('keydown', (event) => this.#key(event))
  }

  #show() {
    const pair = this.#pairs[this.#shown]
    this.#picture = null
    this.empty.textContent = NONE
    if (pair) {
      this.before.src = this.addressOf(pair.before)
      this.after.src = this.addressOf(pair.after)
    }
    this.count.textContent = `${this.#shown + 1} / ${this.#pairs.length}`
    this.picker.hidden = this.#pairs.length < 2
    this.#reveal(false)
  }

  #reveal(visible) {
    for (const part of [this.divider, this.before, this.after, ...this.tags]) part.hidden = !visible
    for (const button of [...this.tools, this.enlarge]) button.disabled = !visible
    this.empty.hidden = visible
    this.stage.tabIndex = visible ? 0 : -1
    this.stage.classList.toggle('cu-filled', visible)
    if (!visible) this.zoomText.textContent = this.sizes.textContent = ''
  }

  #loaded() {
    const picture = { width: this.after.naturalWidth, height: this.after.naturalHeight }
    // The same part of a picture of the same size stays in view, so that runs can be compared.
    const isNew = this.lastSize?.width !== picture.width || this.lastSize?.height !== picture.height
    this.lastSize = this.#picture = picture
    if (isNew || !this.#view) this.#fitted = true
    this.#view ??= { scale: 1, x: 0, y: 0 }
    this.#reveal(true)
    this.layOut()
  }

  #failed(image) {
    if (!image.getAttribute('src')) return
    this.#picture = null
    this.empty.textContent = GONE
    this.#reveal(false)
  }

  #choose(index) {
    this.#shown = (index + this.#pairs.length) % this.#pairs.length
    this.#show()
  }

  #stageSize() {
    return { width: this.stage.clientWidth, height: this.stage.clientHeight }
  }

  /** Pixels of the screen for a unit of the stage, which ComfyUI's canvas scales. */
  #magnification() {
    const { width } = this.stage.getBoundingClientRect()
    return (width / this.stage.offsetWidth || 1) * (window.devicePixelRatio || 1)
  }

  #point(event) {
    const box = this.stage.getBoundingClientRect()
    const factor = this.stage.offsetWidth / box.width
    return { x: (event.clientX - box.left) * factor, y: (event.clientY - box.top) * factor }
  }

  #center() {
    const { width, height } = this.#stageSize()
    return { x: width / 2, y: height / 2 }
  }

  #fit() {
    this.#fitted = true
    this.layOut()
  }

  #zoom(scale, point = this.#center()) {
    const pixel = 1 / this.#magnification()
    this.#view = zoomTo(this.#view, scale, point, this.#stageSize(), this.#picture, pixel)
    this.#fitted = false
    this.#draw()
  }

  #isWhole() {
    return isWhole(this.#view, this.#stageSize(), this.#picture)
  }

  #zoomBy(factor, point) {
    this.#zoom(this.#view.scale * factor, point)
  }

  #zoomToPixels(point) {
    this.#zoom(1 / this.#magnification(), point)
  }

  #pan(dx, dy) {
    this.#view = panBy(this.#view, dx, dy, this.#stageSize(), this.#picture)
    this.#draw()
  }

  #span() {
    return visibleSpan(this.#view, this.#stageSize(), this.#picture)
  }

  #draw() {
    const { width, height } = this.#picture
    const { scale, x, y } = this.#view
    for (const image of [this.before, this.after]) {
      image.style.width = `${width * scale}px`
      image.style.height = `${height * scale}px`
      image.style.transform = `translate(${x}px, ${y}px)`
    }
    const stage = this.#stageSize()
    const place = dividerPlace(this.#position, this.#span())
    // Each is cut off at the divider: one must not show through where the other is transparent.
    this.layers[0].style.clipPath = `inset(0 ${stage.width - place}px 0 0)`
    this.layers[1].style.clipPath = `inset(0 0 0 ${place}px)`
    this.divider.style.left = `${place}px`
    const percent = Math.round(this.#position)
    this.divider.setAttribute('aria-valuenow', percent)
    this.divider.setAttribute('aria-valuetext', `${percent} % before`)
    this.tags[0].style.opacity = place > TAG_ROOM ? 1 : 0
    this.tags[1].style.opacity = stage.width - place > TAG_ROOM ? 1 : 0
    this.stage.classList.toggle('cu-zoomed', !this.#isWhole())
    this.#tellZoom()
  }

  #tellZoom() {
    const pair = this.#pairs[this.#shown]
    const reduced = this.#picture.width / pair.size[0]
    this.zoomText.textContent = `${Math.round(this.#view.scale * this.#magnification() * reduced * 100)} %`
    const preview = reduced < 1 ? ` (reduced to ${this.#picture.width} × ${this.#picture.height})` : ''
    this.sizes.textContent = `${pair.source.join(' × ')} → ${sizeText(pair.size)}${preview}`
    this.sizes.title = this.sizes.textContent
  }

  #slideTo(position) {
    this.#position = position
    this.#draw()
  }

  #press(event) {
    if (event.button !== 0 || !this.#picture) return
    event.stopPropagation()
    const onDivider = this.divider.contains(event.target)
    const point = this.#point(event)
    this.#drag = { slides: onDivider || this.#isWhole(), ...point }
    this.stage.setPointerCapture(event.pointerId)
    this.stage.classList.add('cu-dragging')
    ;(this.#drag.slides ? this.divider : this.stage).focus({ preventScroll: true })
    event.preventDefault()
    if (this.#drag.slides) this.#slideTo(positionAt(point.x, this.#span()))
  }

  #move(event) {
    if (!this.#drag) return
    event.stopPropagation()
    const point = this.#point(event)
    if (this.#drag.slides) this.#slideTo(positionAt(point.x, this.#span()))
    else this.#pan(point.x - this.#drag.x, point.y - this.#drag.y)
    Object.assign(this.#drag, point)
  }

  #release() {
    this.#drag = null
    this.stage.classList.remove('cu-dragging')
  }

  /** The wheel zooms the pictures once they have been clicked; before that it is the canvas's. */
  #wheel(event) {
    if (!this.#picture || !(this.dialog || this.stage.contains(document.activeElement))) return
    event.preventDefault()
    event.stopPropagation()
    this.#zoomBy(ZOOM_FACTOR ** (-event.deltaY / 100), this.#point(event))
  }

  #toggleZoom(event) {
    if (!this.#picture) return
    event.stopPropagation()
    if (this.#isWhole()) this.#zoomToPixels(this.#point(event))
    else this.#fit()
  }

  #slide(event) {
    const position = positionAfterKey(this.#position, event.key, event.shiftKey)
    if (position === null || !this.#picture || event.ctrlKey || event.metaKey || event.altKey) return
    this.#take(event)
    this.#slideTo(position)
  }

  #key(event) {
    if (!this.#picture || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return
    const actions = {
      '+': () => this.#zoomBy(ZOOM_FACTOR),
      '=': () => this.#zoomBy(ZOOM_FACTOR),
      '-': () => this.#zoomBy(1 / ZOOM_FACTOR),
      0: () => this.#fit(),
      1: () => this.#zoomToPixels()
    }
    const pan = panOfKey(event.key)
    if (!pan && !(event.key in actions)) return
    this.#take(event)
    if (pan) this.#pan(...pan)
    else actions[event.key]()
  }

  /** Not for ComfyUI's own shortcuts. */
  #take(event) {
    event.preventDefault()
    event.stopPropagation()
  }

  #toggleDialog() {
    if (this.dialog) return this.dialog.close()
    const home = this.element.parentElement
    this.dialog = make('dialog', 'cu-dialog', { 'aria-label': 'Before and after' }, make('div', 'cu-panel', {}, this.element))
    this.dialog.addEventListener('keydown', (event) => event.stopPropagation())
    this.dialog.addEventListener('close', () => {
      home.append(this.element)
      this.dialog.remove()
      this.dialog = null
      this.enlarge.textContent = 'Enlarge'
      this.enlarge.focus({ preventScroll: true })
    })
    document.body.append(this.dialog)
    this.enlarge.textContent = 'Close'
    this.dialog.showModal()
    this.divider.focus()
  }
}
