// The interactive slab of a report: images that the page itself holds, as ctbasis/viewer/slab.py packs them.
"use strict";

async function unpacked(text, rows, columns) {
  const packed = Uint8Array.from(atob(text.slice(text.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = rows * columns;
  const values = new Int16Array(size);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0, value = 0; column < columns; column++, at++) {
      value = (value + bytes[at] + 256 * bytes[at + size]) & 0xffff;
      values[at] = value;
    }
  }
  return values;
}

function showSlab() {
  const slab = JSON.parse(document.getElementById("slab-data").textContent);
  const { rows, columns, numbers, total } = slab;
  document.getElementById("slab").hidden = false;
  window.viewer = new SliceViewer(document.getElementById("slab-viewer"), {
    panes: slab.panes,
    planes: {
      axial: { count: numbers.length, rows, columns, rowSpacing: slab.spacing[0], columnSpacing: slab.spacing[1], numbers, total },
    },
    load: (_, index) => Promise.all(slab.slices[index].map((text) => unpacked(text, rows, columns))),
  });
}

if (window.DecompressionStream) showSlab();
