"use strict";
// Light, dark, or as the system says. Runs before the page is drawn, so that it does not flash.
(() => {
  const KEY = "dateshard-theme";
  const NEXT = { system: "light", light: "dark", dark: "system" };
  let theme = "system";
  try { theme = localStorage.getItem(KEY) ?? "system"; } catch { /* storage is forbidden: the system's it is */ }
  if (!(theme in NEXT)) theme = "system";

  function show() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
    dispatchEvent(new Event("theme"));
  }

  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      theme = NEXT[theme];
      try { localStorage.setItem(KEY, theme); } catch { /* it holds until the page is left */ }
      show();
    });
  });
})();
