"""How the shipped mails look: each sample drawn and measured by Chromium, on a desktop and on a phone.

The pictures are left in build/templates for eyes; what can be told in figures is asserted: nothing sticks out of the
window, everything can be read, the button can be hit with a thumb, and no tenant's words push ours aside.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "templates"
WIDTHS = {"desktop": 700, "phone": 390}
NARROWEST = 320

# What stands where, as a reader sees it: every piece of visible text with its box, its colour and what is behind it.
SCRIPT = """
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = window.getComputedStyle(element).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
  return "rgb(255, 255, 255)";
};
const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, holder = node.parentElement, range = document.createRange();
  if (!node.data.trim() || !holder.checkVisibility()) continue;
  range.selectNodeContents(node);
  const {left, right, top, height} = range.getBoundingClientRect();
  const {color, fontSize, fontWeight} = window.getComputedStyle(holder);
  texts.push({text: node.data.trim(), tag: holder.closest("h1,p,td,a").tagName, left, right, top, height, color,
              background: behind(holder), size: parseFloat(fontSize), weight: +fontWeight});
}
const links = [...document.links].map(link => {
  const {width, height, top} = link.getBoundingClientRect();
  return {href: link.getAttribute("href"), width, height, top, background: behind(link)};
});
const {scrollWidth, scrollHeight} = document.documentElement;
return {scrollWidth, scrollHeight, texts, links, page: behind(document.body)};
"""
