// The look of the panels on the nodes, in ComfyUI's colours, light and dark. Added to the page once.

const RULES = `
.cu-panel {
  box-sizing: border-box;
  display: flex;
  flex-direction: column;
  gap: 6px;
  width: 100%;
  height: 100%;
  min-height: 264px;
  padding: 2px 0;
  font: 12px/1.45 Inter, system-ui, sans-serif;
  color: var(--input-text, #ddd);
  user-select: none;
}
.cu-panel [hidden] { display: none !important; }
.cu-bar, .cu-tools { display: flex; align-items: center; gap: 4px; flex: none; min-width: 0; }
.cu-panel button, .cu-dialog button {
  appearance: none;
  margin: 0;
  padding: 2px 8px;
  border: 1px solid transparent;
  border-radius: 6px;
  background: transparent;
  color: inherit;
  font: inherit;
  cursor: pointer;
  opacity: 0.75;
  white-space: nowrap;
}
.cu-panel button:hover, .cu-dialog button:hover { opacity: 1; background: var(--comfy-input-bg, #222); }
.cu-panel button:disabled { opacity: 0.35; cursor: default; }
.cu-panel button[aria-selected='true'] {
  opacity: 1;
  background: var(--comfy-input-bg, #222);
  border-color: var(--border-color, #4e4e4e);
}
.cu-panel :focus-visible, .cu-dialog :focus-visible {
  outline: 2px solid #4f8ef7;
  outline-offset: 1px;
}
.cu-brief {
  flex: 1;
  min-width: 0;
  overflow: hidden;
  text-align: right;
  text-overflow: ellipsis;
  white-space: nowrap;
  color: var(--descrip-text, #999);
}
.cu-mark { color: #e08a12; margin-inline-start: 4px; }
.cu-plan {
  flex: 1;
  min-height: 0;
  overflow: auto;
  box-sizing: border-box;
  padding: 10px 12px;
  border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 8px;
  background: var(--comfy-input-bg, #222);
  user-select: text;
}
.cu-headline { font-size: 17px; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.cu-headline.cu-quiet { font-size: 12px; font-weight: 400; color: var(--descrip-text, #999); }
.cu-rows {
  display: grid;
  grid-template-columns: max-content 1fr;
  gap: 2px 12px;
  margin: 6px 0 0;
  font-variant-numeric: tabular-nums;
}
.cu-rows dt { color: var(--descrip-text, #999); }
.cu-rows dd { margin: 0; }
.cu-remarks { list-style: none; margin: 8px 0 0; padding: 0; }
.cu-remarks:empty { display: none; }
.cu-remarks li { margin-top: 4px; padding: 3px 8px; border-inline-start: 3px solid var(--border-color, #4e4e4e);
  overflow-wrap: anywhere; color: var(--descrip-text, #999); }
.cu-remarks li.cu-warning { border-color: #e8a33d; color: inherit; }
.cu-compare { flex: 1; min-height: 0; display: flex; flex-direction: column; gap: 4px; }
.cu-stage {
  position: relative;
  flex: 1;
  min-height: 120px;
  overflow: hidden;
  border-radius: 8px;
  background: var(--comfy-input-bg, #222);
  touch-action: none;
}
.cu-stage.cu-filled { cursor: ew-resize; }
.cu-stage.cu-zoomed { cursor: grab; }
.cu-stage.cu-zoomed.cu-dragging { cursor: grabbing; }
.cu-layer { position: absolute; inset: 0; overflow: hidden; pointer-events: none; }
.cu-layer img {
  position: absolute;
  top: 0;
  left: 0;
  max-width: none;
  max-height: none;
  object-fit: fill;
  transform-origin: 0 0;
  background: repeating-conic-gradient(#8884 0 25%, transparent 0 50%) 0 0 / 16px 16px;
}
.cu-divider {
  position: absolute;
  top: 0;
  bottom: 0;
  width: 28px;
  margin-left: -14px;
  cursor: ew-resize;
  touch-action: none;
  border-radius: 6px;
}
.cu-divider::before {
  content: '';
  position: absolute;
  inset: 0 auto 0 50%;
  width: 2px;
  margin-left: -1px;
  background: #fff;
  box-shadow: 0 0 3px #000a;
}
.cu-divider::after {
  content: '';
  position: absolute;
  top: 50%;
  left: 50%;
  width: 24px;
  height: 24px;
  margin: -12px 0 0 -12px;
  border-radius: 50%;
  box-shadow: 0 1px 4px #000a;
  background: #fff url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='%23333' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'%3E%3Cpath d='M9 8l-4 4 4 4M15 8l4 4-4 4'/%3E%3C/svg%3E");
}
.cu-divider:focus-visible { outline: none !important; }
.cu-divider:focus-visible::after { box-shadow: 0 0 0 3px #4f8ef7, 0 1px 4px #000a; }
.cu-tag {
  position: absolute;
  top: 8px;
  padding: 1px 8px;
  border-radius: 999px;
  background: #000a;
  color: #fff;
  font-size: 11px;
  pointer-events: none;
}
.cu-tag-before { left: 8px; }
.cu-tag-after { right: 8px; }
.cu-empty {
  position: absolute;
  inset: 0;
  display: flex;
  align-items: center;
  justify-content: center;
  padding: 16px;
  text-align: center;
  color: var(--descrip-text, #999);
}
.cu-zoom { min-width: 3.6em; text-align: center; font-variant-numeric: tabular-nums;
  color: var(--descrip-text, #999); }
.cu-dialog {
  box-sizing: border-box;
  width: 96vw;
  height: 94vh;
  max-width: none;
  max-height: none;
  padding: 12px;
  border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 12px;
  background: var(--comfy-menu-bg, #353535);
  color: var(--input-text, #ddd);
}
.cu-dialog::backdrop { background: #000b; }
.cu-dialog[open] { display: flex; }
.cu-dialog .cu-panel { min-height: 0; }
`

let added = false

export function addStyle() {
  if (added) return
  const sheet = new CSSStyleSheet()
  sheet.replaceSync(RULES)
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet]
  added = true
}

/** An element with a class, attributes and children; texts are texts, never markup. */
export function make(tag, name = '', attributes = {}, ...children) {
  const element = document.createElement(tag)
  if (name) element.className = name
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.append(...children)
  return element
}

export function makeButton(label, title, action) {
  const button = make('button', '', { type: 'button', title, 'aria-label': title }, label)
  button.addEventListener('click', action)
  return button
}
