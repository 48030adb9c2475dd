// What is wrong with pages of HTML, as a browser shows them: check(window, expected)
// returns sentences.  expected: width, dark (whether it is), texts (what must be
// there as text), desk (whether tables must fit, which a narrow window lets scroll).
//
// The pages are frames of the page that runs this, and do not know of it.

'use strict';

function parse(colour) {
  const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
}

function over(top, below) {
  const mix = key => top[key] * top.a + below[key] * (1 - top.a);
  return { r: mix('r'), g: mix('g'), b: mix('b'), a: 1 };
}

// what is behind an element's text
function background(view, element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(view.getComputedStyle(e).backgroundColor);
    layers.push(colour);
    if (colour.a === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
}

// as the Web Content Accessibility Guidelines define it
function luminance({ r, g, b }) {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

function contrast(text, behind) {
  const [light, dark] = [luminance(over(text, behind)), luminance(behind)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}

function brief(text) {
  return text.trim().replace(/\s+/g, ' ').slice(0, 40);
}

// for readers of screens only
function hidden(view, element) {
  return element.closest('[hidden]') || [...ancestors(element)].some(e => {
    const style = view.getComputedStyle(e);
    return style.display === 'none' || style.visibility === 'hidden' || style.clipPath !== 'none';
  });
}

function* ancestors(element) {
  for (let e = element; e; e = e.parentElement) yield e;
}

function checkContrast(view, problem) {
  const check = (element, text, style) => {
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight, 10) >= 700);
    const ratio = contrast(parse(style.color), background(view, element));
    if (ratio < (large ? 3 : 4.5)) problem(`contrast ${ratio.toFixed(2)} of "${brief(text)}"`);
  };
  const walker = view.document.createTreeWalker(view.document.body, view.NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('svg, script, style') || hidden(view, element)) continue;
    check(element, walker.currentNode.data, view.getComputedStyle(element));
    texts++;
  }
  for (const element of view.document.body.querySelectorAll('*')) {
    const style = view.getComputedStyle(element, '::before');
    const text = /^"(.+)"$/.exec(style.content);
    if (text && style.display !== 'none' && !hidden(view, element)) check(element, text[1], style);
  }
  if (texts < 10) problem(`only ${texts} texts`);
}

function checkPlaces(view, desk, problem) {
  const root = view.document.documentElement;
  if (root.scrollWidth > view.innerWidth) problem(`wider than the window: ${root.scrollWidth} > ${view.innerWidth}`);
  for (const element of view.document.body.querySelectorAll('*')) {
    if (element.closest('svg') !== null && element.tagName !== 'svg' || hidden(view, element)) continue;
    const style = view.getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const scrolls = [...ancestors(element.parentElement)].some(e => view.getComputedStyle(e).overflowX === 'auto');
    if (box.width > 0 && (box.left < -0.5 || (!scrolls && box.right > view.innerWidth + 0.5)))
      problem(`sticks out: ${element.tagName} from ${box.left} to ${box.right}: ${brief(element.textContent)}`);
    if (element.tagName !== 'svg' && element.scrollWidth > element.clientWidth && element.clientWidth > 0 &&
        (style.overflowX === 'hidden' || (desk && style.overflowX === 'auto')))
      problem(`clipped: ${element.tagName} ${element.scrollWidth} > ${element.clientWidth}: ${brief(element.textContent)}`);
  }
}

function checkStructure(view, problem) {
  const { document } = view;
  if (!document.documentElement.lang) problem('no language');
  if (!document.title) problem('no title');
  if (!/width=device-width/.test(document.querySelector('meta[name=viewport]')?.content)) problem('no viewport');
  if (document.querySelectorAll('main').length !== 1) problem('not one main part');
  let last = 0;
  for (const heading of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const level = Number(heading.tagName[1]);
    if (level > last + 1 || (level === 1 && last > 0)) problem(`h${level} after h${last}: ${brief(heading.textContent)}`);
    if (!heading.textContent.trim()) problem('an empty heading');
    last = level;
  }
  if (last === 0) problem('no heading');
  for (const table of document.querySelectorAll('table')) {
    const headers = table.querySelectorAll('thead th[scope=col]');
    for (const header of headers) if (!header.textContent.trim()) problem('a column without a name');
    for (const row of table.tBodies[0].rows)
      if (row.cells.length !== headers.length) problem(`${row.cells.length} columns under ${headers.length} names`);
  }
  for (const svg of document.querySelectorAll('svg'))
    if (!svg.querySelector(':scope > title')?.textContent.trim() && !svg.getAttribute('aria-label'))
      problem(`svg without a title: ${svg.getAttribute('class')}`);
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size < ids.length) problem('two elements of one id');
  for (const link of document.querySelectorAll('a')) {
    const target = link.getAttribute('href') || '';
    if (!/^#./.test(target) || !document.getElementById(target.slice(1))) problem(`leads nowhere: ${target}`);
  }
}

function checkTouch(view, problem) {
  for (const element of view.document.querySelectorAll('a, summary, button, input')) {
    const box = element.getBoundingClientRect();
    if (!hidden(view, element) && (box.width < 24 || box.height < 24))
      problem(`${box.width}x${box.height} is small to touch: ${brief(element.textContent)}`);
  }
}

function checkHarm(view, texts, problem) {
  const { document } = view;
  if (view.pwned !== undefined) problem('pwned');
  for (const element of document.querySelectorAll('*')) {
    if (/^(script|img|iframe|frame|object|embed|form|base|video|audio)$/i.test(element.tagName)) problem(`a ${element.tagName}`);
    for (const { name, value } of element.attributes) {
      if (/^on/.test(name)) problem(`${element.tagName} ${name}`);
      if (/^(src|srcset|href|xlink:href|action|data|poster)$/.test(name) && !/^(#|data:)/.test(value)) problem(`asks for ${value}`);
    }
  }
  for (const style of document.querySelectorAll('style, [style]'))
    if (/url\(|@import/.test(style.textContent + (style.getAttribute('style') || ''))) problem('a style asks for something');
  for (const entry of view.performance.getEntriesByType('resource')) problem(`asked for ${entry.name}`);
  for (const text of texts) if (!document.body.textContent.includes(text)) problem(`is not there as text: ${text}`);
}

function check(view, expected) {
  const problems = [];
  const problem = text => problems.push(text);
  for (const details of view.document.querySelectorAll('details')) details.open = true;
  if (view.innerWidth !== expected.width) problem(`the window is ${view.innerWidth} wide`);
  if (view.matchMedia('(prefers-color-scheme: dark)').matches !== expected.dark) problem('the scheme of colours is another one');
  checkStructure(view, problem);
  checkPlaces(view, expected.desk, problem);
  checkContrast(view, problem);
  if (expected.width < 500) checkTouch(view, problem);
  checkHarm(view, expected.texts, problem);
  return problems;
}
