// The mouse and the keys of a SliceViewer (slices.js). The report includes this file by its templates, as it does that one.
"use strict";

Object.assign(SliceViewer.prototype, {
  listen(name, canvas) {
    let drag = null;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) {
        const zoom = Math.max(1, Math.min(16, this.view.zoom * Math.exp(-event.deltaY / 300)));
        this.zoomTo({ ...this.view, zoom });
      } else this.go(this.wanted + Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      const kind = event.button === 2 || event.shiftKey ? "window" : "pan";
      const held = this.mode === "curtain" && name === "after" && kind === "pan";
      drag = { kind: held ? "curtain" : kind, x: event.clientX, y: event.clientY };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => (drag = null));
    canvas.addEventListener("dblclick", () => this.zoomTo({ ...this.view, zoom: Math.min(16, this.view.zoom * 2) }));
    canvas.addEventListener("pointermove", (event) => {
      if (drag) this.drag(drag, event, canvas);
      this.point(event, canvas);
    });
    canvas.addEventListener("pointerleave", () => {
      this.cursor = null;
      this.place();
    });
  },

  drag(drag, event, canvas) {
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    [drag.x, drag.y] = [event.clientX, event.clientY];
    if (drag.kind === "curtain") {
      this.curtain = Math.max(0, Math.min(1, event.offsetX / canvas.clientWidth));
    } else if (drag.kind === "window") {
      this.window.width = Math.max(1, Math.round(this.window.width + 2 * dx));
      this.window.center = Math.round(this.window.center + 2 * dy);
      this.paint();
    } else {
      const factor = canvas.width / canvas.clientWidth / this.layout(canvas).fit;
      this.view = { ...this.view, x: this.view.x + dx * factor, y: this.view.y + dy * factor };
    }
    this.place();
  },

  point(event, canvas) {
    if (!this.images) return;
    const plane = this.study.planes[this.plane];
    const { across, down, left, top } = this.layout(canvas);
    const ratio = canvas.width / canvas.clientWidth;
    const column = Math.floor((event.offsetX * ratio - left) / across);
    const row = Math.floor((event.offsetY * ratio - top) / down);
    const inside = column >= 0 && row >= 0 && column < plane.columns && row < plane.rows;
    this.cursor = inside ? { row, column } : null;
    if (inside) {
      const [slices] = this.study.shape ?? [plane.count];
      const across_slices = slices - 1 - row;
      this.voxel = {
        axial: [this.index, row, column],
        coronal: [across_slices, this.index, column],
        sagittal: [across_slices, column, this.index],
      }[this.plane];
      const at = row * plane.columns + column;
      const hu = (name) => {
        const step = this.steps[name];
        return (this.images[name][at] * step).toFixed(step < 1 ? 2 : 0).replace("-", "\u2212");
      };
      const texts = this.names.map((name) => `${name} ${hu(name)} HU`);
      const slice = plane.numbers ? plane.numbers[this.index] : this.voxel[0] + 1;
      this.values.textContent = `slice ${slice}, row ${this.voxel[1] + 1}, column ${this.voxel[2] + 1}: ${texts.join(", ")}`;
    }
    this.place();
  },

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.tagName === "INPUT" && event.target.type === "number") return;
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      this.go(this.wanted + steps[event.key]);
    } else if (event.key === "c") this.compare(this.mode === "curtain" ? "panes" : "curtain");
    else if (event.key === "f") this.compare(this.mode === "flicker" ? "panes" : "flicker");
  },
});
