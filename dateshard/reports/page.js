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

  function told(target, event) {
    const data = target.dataset;
    if (data.labels !== undefined) {
      const labels = data.labels.split("|");
      return labels[Math.floor(share(event, target.getBoundingClientRect())[0] * labels.length)];
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
