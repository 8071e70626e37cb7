// Makes elements. Text is set as text and never read as HTML, whatever a run is called.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (key === "text") made.textContent = value;
    else if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Changes a text only where it differs, so that a selection and a screen reader are not disturbed.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function table(caption, heads, rows, numbers = []) {
  const css = (column) => (numbers.includes(column) ? "n" : "");
  const head = element("tr", {}, ...heads.map((text, k) => element("th", { scope: "col", className: css(k), text })));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((text, k) => element("td", { className: css(k), text }))));
  return element("div", { className: "tables", tabIndex: 0, role: "region", "aria-label": caption },
    element("table", {}, element("caption", { text: caption }), element("thead", {}, head), element("tbody", {}, ...body)));
}

// SVG that our own server drew, in which every name is escaped; scripts in it would be stopped by the page's policy.
const drawn = globalThis.trustedTypes?.createPolicy("calendar", { createHTML: (text) => text });

export function drawing(svg) {
  const parsed = new DOMParser().parseFromString(drawn ? drawn.createHTML(svg) : svg, "text/html");
  return document.importNode(parsed.body.firstElementChild, true);
}
