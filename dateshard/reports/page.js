"use strict";
// Tells what is under the pointer. The page is complete without it: pictures have titles, figures stand in tables.
(() => {
  const tip = document.getElementById("tip");
  const share = (event, box) => [
    Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.9999),
    Math.min(Math.max((event.clientY - box.top) / box.height, 0), 0.9999),
  ];
  const pixels = new Map();

  function shadesOf(image) {
    // The picture's palette runs from low to high: a pixel's colour is turned back into its place there.
    if (pixels.has(image)) return pixels.get(image);
    const ramp = [...document.querySelectorAll("image.heat")].find((one) => one.getAttribute("height") === "8");
    const read = (source) => {
      const picture = new Image();
      picture.src = source.getAttribute("href");
      if (!picture.complete || !picture.naturalWidth) return null;
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
      const context = canvas.getContext("2d");
      context.drawImage(picture, 0, 0);
      return context.getImageData(0, 0, canvas.width, canvas.height);
    };
    const [colours, found] = [read(ramp), read(image)];
    if (!colours || !found) return null;
    const places = new Map();
    const name = (data, k) => data[4 * k] * 65536 + data[4 * k + 1] * 256 + data[4 * k + 2];
    for (let k = 0; k < colours.width; k++) places.set(name(colours.data, k), k / (colours.width - 1));
    const value = (x, y) => {
      const k = y * found.width + x;
      return found.data[4 * k + 3] ? places.get(name(found.data, k)) : undefined;
    };
    pixels.set(image, value);
    return value;
  }

  // A node's series, `low;high;mark~text...;bytes`: each byte is a place between low and high, 255 is nothing.
  const parts = (sheet, k) => sheet.dataset.series.split("|")[k].split(";");
  function values(sheet, k) {
    const [low, high, , packed] = parts(sheet, k);
    const count = sheet.closest(".period").dataset.times.split("|").length;
    const all = Array.from(atob(packed), (one) => one.charCodeAt(0)).map((byte) => (byte === 255 ? null : Number(low) + (byte / 254) * (high - low)));
    return Array.from({ length: all.length / count }, (_, line) => all.slice(line * count, (line + 1) * count));
  }

  function draw(sheet, k) {
    const [low, high, marks] = parts(sheet, k);
    const [left, top, width, height] = ["x", "y", "width", "height"].map((name) => Number(sheet.getAttribute(name)));
    const lines = (sheet.lines = values(sheet, k));
    const x = (at) => (left + ((at + 0.5) * width) / lines[0].length).toFixed(1);
    const y = (value) => (top + height - ((value - low) / (high - low || 1)) * height).toFixed(1);
    const path = (line) => line.map((value, at) => (value === null ? "" : line[at - 1] == null ? `M${x(at)},${y(value)}h.1` : `L${x(at)},${y(value)}`)).join("");
    const pieces = [[]];
    if (lines.length > 2) lines[2].forEach((value, at) => (value === null || lines[3][at] === null ? pieces.push([]) : pieces.at(-1).push(at)));
    const around = pieces.filter((piece) => piece.length).map((piece) =>
      "M" + [...piece.map((at) => `${x(at)},${y(lines[3][at])}`), ...piece.toReversed().map((at) => `${x(at)},${y(lines[2][at])}`)].join("L") + "Z");
    const svg = sheet.ownerSVGElement;
    [[".band", around.join("")], [".line.b", path(lines[1])], [".line.ink", path(lines[0])]].forEach(([css, d]) => svg.querySelector(css).setAttribute("d", d));
    const element = (name, attributes, words = "") => {
      const made = document.createElementNS(svg.namespaceURI, name);
      Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
      made.textContent = words;
      return made;
    };
    const scale = marks.split("~");
    svg.querySelector(".scale").replaceChildren(...scale.flatMap((words, at) => at % 2 ? [
      element("path", { class: "grid", d: `M${left},${y(scale[at - 1])}H${left + width}` }),
      element("text", { class: "label", x: left - 7, y: Number(y(scale[at - 1])) + 3.5, "text-anchor": "end" }, words),
    ] : []));
  }

  for (const card of document.querySelectorAll(".period")) {
    const select = card.querySelector("select");
    card.querySelector(".choose").hidden = false;
    select.addEventListener("change", () => {
      card.querySelectorAll("[data-series]").forEach((sheet) => draw(sheet, select.selectedIndex));
      card.querySelectorAll(".chosen").forEach((words) => { words.textContent = select.value; });
    });
    if (select.selectedIndex) select.dispatchEvent(new Event("change")); // a browser keeps the choice over a reload
  }

  function told(target, event) {
    const data = target.dataset;
    if (data.labels !== undefined) {
      const labels = data.labels.split("|");
      return labels[Math.floor(share(event, target.getBoundingClientRect())[0] * labels.length)];
    }
    if (data.series !== undefined) {
      const [times, lines] = [target.closest(".period").dataset.times.split("|"), (target.lines ??= values(target, 0))];
      const at = Math.floor(share(event, target.getBoundingClientRect())[0] * times.length);
      const say = (line) => (lines[line][at] === null ? "not observed" : Number(lines[line][at].toPrecision(3)));
      const ends = lines.length > 2 && lines[2][at] !== null ? `, interval ${say(2)} to ${say(3)}` : "";
      return `${times[at]} · truth ${say(0)}, forecast ${lines[1][at] === null ? "none" : say(1)}${ends}`;
    }
    if (data.rows !== undefined) {
      const [rows, columns] = [data.rows.split("|"), data.columns.split("|")];
      const [x, y] = share(event, target.getBoundingClientRect());
      const [column, row] = [Math.floor(x * columns.length), Math.floor(y * rows.length)];
      const value = shadesOf(target.previousElementSibling);
      const place = value && value(column, row);
      const [low, high] = [Number(data.low), Number(data.high)];
      const figure = place === undefined || place === null ? "no value" : `about ${Number((low + place * (high - low)).toPrecision(3))}${data.unit}`;
      return `${rows[row]} · ${columns[column]}: ${figure}`;
    }
    if (data.told === undefined) {
      const title = [...target.children].find((child) => child.tagName === "title");
      if (!title) return "";
      data.told = title.textContent;
      title.remove(); // the browser's own, slow hint would stand beside ours
      target.setAttribute("aria-label", data.told);
    }
    return data.told;
  }

  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest?.(".hit, svg g:has(> title), svg circle, svg [data-told]");
    const words = target ? told(target, event) : "";
    tip.hidden = !words;
    if (!words) return;
    tip.textContent = words;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below}px`;
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });
})();
