// What is wrong with the open report, as a list of sentences: nothing may be cut, on top of each other, too small, too pale, or wider than the window.
(() => {
  const faults = [];
  const rgb = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const light = (colour) => {
    const part = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = rgb(colour).map(part);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  // WCAG 2.1: 4.5 for texts, 3 for what has to be seen.
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgb(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  if (!document.title.startsWith('vial bench')) faults.push(`the title is ${document.title}`);
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) faults.push(`the page is ${page.scrollWidth} wide in a window of ${page.clientWidth}`);
  const plots = [...document.querySelectorAll('svg')];
  if (plots.length !== 10) faults.push(`${plots.length} plots instead of 10`);
  for (const plot of plots) {
    const frame = plot.getBoundingClientRect();
    const name = plot.querySelector('title').textContent;
    if (frame.width < 250 || frame.height < 100) faults.push(`${name} is ${frame.width} by ${frame.height}`);
    const texts = [...plot.querySelectorAll('text')].map((text) => [text, text.getBoundingClientRect()]);
    texts.forEach(([text, box], at) => {
      const said = `${name}: "${text.textContent.trim()}"`;
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) faults.push(`${said} is cut`);
      const size = (parseFloat(getComputedStyle(text).fontSize) * frame.width) / plot.viewBox.baseVal.width;
      if (size < 9) faults.push(`${said} is ${size} px small`);
      if (contrast(getComputedStyle(text).fill, behind(plot)) < 4.5) faults.push(`${said} is pale`);
      for (const [other, its] of texts.slice(at + 1)) {
        // Boxes hold room above and below the letters.
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (across > 1 && down > 0.35 * Math.min(box.height, its.height)) faults.push(`${said} lies on "${other.textContent.trim()}"`);
      }
    });
    for (const line of plot.querySelectorAll('polyline, circle, rect')) {
      const style = getComputedStyle(line);
      const colour = style.fill === 'none' ? style.stroke : style.fill;
      const grid = line.getAttribute('stroke') === 'var(--grid)';
      if (!grid && contrast(colour, behind(plot)) < 3) faults.push(`${name}: a ${line.tagName} is pale (${colour})`);
    }
  }
  for (const text of document.querySelectorAll('h1, h2, h3, p, li, td, th, dt, dd, a, figcaption, code')) {
    if (contrast(getComputedStyle(text).color, behind(text)) < 4.5) faults.push(`pale: ${text.textContent}`);
  }
  return [...new Set(faults)].slice(0, 30);
})();
