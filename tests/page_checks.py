"""Accessibility of an HTML page, as a real browser lays it out: contrast, names, headings, focus, width."""

from pathlib import Path
from typing import Any

from browser import Browser

LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA, for text of any size

AUDIT = """((least, width) => {
  const found = [], all = selector => [...document.querySelectorAll(selector)];
  const tell = (what, node) => found.push(`${what}: ${node.outerHTML.slice(0, 120)}`);
  const parse = text => {
    const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number), scale = text.startsWith("color(srgb") ? 255 : 1;
    return [...numbers.slice(0, 3).map(n => n * scale), numbers[3] ?? 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((n, i) => a * n + (1 - a) * under[i]);
  const background = node => {
    if (!node) return parse(getComputedStyle(document.documentElement).colorScheme.includes("dark")
      && matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)").slice(0, 3);
    const own = parse(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, background(node.parentElement));
  };
  const luminance = color => {
    const [r, g, b] = color.map(n => n / 255).map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  window.contrast = contrast; window.parse = parse; window.background = background;

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (texts.nextNode()) {
    const node = texts.currentNode, parent = node.parentElement, range = document.createRange();
    range.selectNodeContents(node);
    if (!node.textContent.trim() || parent.closest("script, style") || !range.getClientRects().length) continue;
    const style = getComputedStyle(parent);
    if (style.visibility !== "visible") continue;
    const color = parse(parent instanceof SVGElement ? style.fill : style.color), under = background(parent);
    for (let up = parent; up; up = up.parentElement) color[3] *= Number(getComputedStyle(up).opacity);
    const value = contrast(over(color, under), under);
    if (value < least) tell(`contrast ${value.toFixed(2)} of "${node.textContent.trim()}"`, parent);
    count += 1;
  }
  if (!count) found.push("no text");

  if (!document.documentElement.lang) found.push("no language");
  if (!document.title.trim()) found.push("no title");
  all("img").filter(img => !img.alt.trim()).forEach(img => tell("no alternative text", img));
  all("[role=img]").filter(img => !img.getAttribute("aria-label")?.trim()).forEach(img => tell("no label", img));
  all("th").filter(th => !th.textContent.trim()).forEach(th => tell("empty header", th));
  const levels = all("h1, h2, h3, h4, h5, h6").map(h => Number(h.tagName[1]));
  if (levels[0] !== 1 || levels.filter(n => n === 1).length !== 1) found.push(`headings start with ${levels}`);
  levels.forEach((n, i) => { if (i && n > levels[i - 1] + 1) found.push(`h${n} after h${levels[i - 1]}`); });
  all("input, select, textarea, button, a, summary").forEach(control => {
    const labels = [...(control.labels ?? [])].map(label => label.textContent).join("");
    const own = control.matches("button, a, summary") ? control.textContent : "";
    if (!(control.getAttribute("aria-label") ?? labels + own).trim()) tell("no name", control);
  });
  const ids = all("[id]").map(node => node.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach(id => found.push(`two elements with id ${id}`));
  all("[for], [aria-describedby], [aria-labelledby], a[href^='#']").forEach(node => {
    const target = node.getAttribute("for") ?? node.getAttribute("aria-describedby")
      ?? node.getAttribute("aria-labelledby") ?? node.getAttribute("href").slice(1);
    if (!ids.includes(target)) tell("refers to nothing", node);
  });

  const wide = document.documentElement.scrollWidth;
  if (wide > width) found.push(`the page is ${wide} pixels wide in a window of ${width}`);
  all("body *").filter(box => /auto|scroll/.test(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth
    && box.tabIndex !== 0).forEach(box => tell("scrolls, but not with the keyboard", box));
  return found;
})"""

FOCUS = """(() => {
  const node = document.activeElement;
  if (node === document.body) return null;
  node.dataset.reached = "";
  const style = getComputedStyle(node), width = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
  const seen = width >= 2 && contrast(parse(style.outlineColor).slice(0, 3), background(node.parentElement)) >= 3;
  return seen ? "" : node.outerHTML.slice(0, 120);
})()"""


def page_problems(browser: Browser, path: Path, width: int, dark: bool = False) -> list[str]:
    """Open a page in a window, and return what is wrong with it, with all its ``details`` open."""
    browser.size(width, 800, dark)
    browser.open(path)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # the page has seen it
    found: list[str] = browser.run(f"{AUDIT}({LEAST_CONTRAST}, {width})")
    return found


def focus_problems(browser: Browser) -> list[str]:
    """Controls that the Tab key does not reach, or that do not show that they have the focus; after page_problems."""
    found: list[str] = []
    browser.run("document.activeElement.blur()")
    for _ in range(400):
        browser.press("Tab", 9)
        state: Any = browser.run(FOCUS)
        if state is None:
            break
        if state:
            found.append(f"focus is not visible: {state}")
    left = "[...document.querySelectorAll('input, select, button, a, summary')].filter(n => !('reached' in n.dataset))"
    return found + [f"not reached: {node}" for node in browser.run(f"{left}.map(n => n.outerHTML.slice(0, 120))")]
