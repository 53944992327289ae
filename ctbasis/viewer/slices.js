// Panes of one image before and after denoising, the removed component and sigma, that scroll, zoom and pan together.
// Drawn on 2-D canvases, so that it needs no graphics processor. No text here may hold the delimiters of Jinja: the
// report includes this file by its templates.
"use strict";

class SliceViewer {
  // root: element to fill. study: panes [name, step], planes by name (count, rows, columns, rowSpacing, columnSpacing,
  // edges, numbers), and load(plane, index), which promises one Int16Array a pane.
  constructor(root, study) {
    this.root = root;
    this.study = study;
    this.steps = Object.fromEntries(study.panes.map((pane) => [pane.name, pane.step]));
    this.steps.removed = this.steps.before;
    this.names = ["before", "after", "removed", "sigma"].filter((name) => name in this.steps);
    this.plane = Object.keys(study.planes)[0];
    this.wanted = this.middle(this.plane);
    this.way = 1;
    this.mode = "panes";
    this.curtain = 0.5;
    this.flicker = false;
    this.view = { zoom: 1, x: 0, y: 0 };
    this.window = { center: -400, width: 1200, removed: 0, sigma: 0 };
    this.kept = new Map();
    this.build();
    this.go(this.wanted);
  }

  middle(plane) {
    return Math.floor(this.study.planes[plane].count / 2);
  }

  // ---- the images ----

  fetch(plane, index) {
    const key = plane + index;
    if (!this.kept.has(key)) {
      const loading = this.study.load(plane, index).then((images) => this.arranged(images));
      loading.catch(() => this.kept.delete(key));
      this.kept.set(key, loading);
      if (this.kept.size > SliceViewer.KEPT) this.kept.delete(this.kept.keys().next().value);
    }
    return this.kept.get(key);
  }

  arranged(images) {
    const by = Object.fromEntries(this.study.panes.map((pane, at) => [pane.name, images[at]]));
    const scale = this.steps.after / this.steps.before;
    by.removed = new Int16Array(by.before.length);
    for (let at = 0; at < by.removed.length; at++) by.removed[at] = Math.round(by.before[at] - by.after[at] * scale);
    return by;
  }

  async go(index) {
    const last = this.study.planes[this.plane].count - 1;
    const next = Math.max(0, Math.min(last, index));
    if (next !== this.wanted) this.way = Math.sign(next - this.wanted);
    this.wanted = next;
    this.slider.value = String(next);
    if (this.going) return;
    this.going = true;
    try {
      while (this.shown !== this.plane + this.wanted) {
        const [plane, at] = [this.plane, this.wanted];
        const images = await this.fetch(plane, at);
        if (plane !== this.plane) continue;
        this.images = images;
        this.shown = plane + at;
        this.index = at;
        this.ahead(plane, at);
        this.paint();
        this.root.dataset.shown = plane + " " + at;
        this.message("");
      }
    } catch (error) {
      this.message(error.message);
      this.root.dataset.failed = error.message;
    } finally {
      this.going = false;
    }
  }

  ahead(plane, index) {
    for (let step = 1; step <= SliceViewer.AHEAD; step++) {
      const next = index + this.way * step;
      if (next >= 0 && next < this.study.planes[plane].count) this.fetch(plane, next).catch(() => {});
    }
  }

  // ---- drawing ----

  // Colours of all 16-bit values: from black at low to white at high.
  colours(low, high) {
    const table = new Uint32Array(65536);
    const factor = 255 / Math.max(high - low, 1e-9);
    for (let value = -32768; value < 32768; value++) {
      const grey = Math.max(0, Math.min(255, Math.round((value - low) * factor)));
      table[value + 32768] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    return table;
  }

  range(name) {
    const { center, width, removed, sigma } = this.window;
    if (name === "removed") return [-removed, removed];
    if (name === "sigma") return [0, sigma];
    return [center - width / 2, center + width / 2];
  }

  table(name) {
    const [low, high] = this.range(name);
    const key = `${name} ${low} ${high}`;
    this.tables ??= {};
    if (this.tables[name]?.key !== key) {
      this.tables[name] = { key, colours: this.colours(low / this.steps[name], high / this.steps[name]) };
    }
    return this.tables[name].colours;
  }

  // The scales of the removed component and of sigma are set by the first image, and stay for all.
  measure() {
    const top = (name) => {
      const values = Array.from(this.images[name].filter((_, at) => at % 7 === 0), Math.abs).sort((a, b) => a - b);
      return Math.max(1, Math.ceil(1.5 * values[Math.floor(values.length * 0.95)] * this.steps[name]));
    };
    for (const name of ["removed", "sigma"]) {
      if (!this.window[name] && name in this.steps) this.window[name] = top(name);
    }
    this.fields();
  }

  paint() {
    if (!this.images) return;
    this.measure();
    const { rows, columns } = this.study.planes[this.plane];
    for (const name of this.names) {
      const { source } = this.panes[name];
      if (source.width !== columns || source.height !== rows) [source.width, source.height] = [columns, rows];
      const context = source.getContext("2d");
      const picture = context.createImageData(columns, rows);
      const pixels = new Uint32Array(picture.data.buffer);
      const values = this.images[name];
      const table = this.table(name);
      for (let at = 0; at < pixels.length; at++) pixels[at] = table[values[at] + 32768];
      context.putImageData(picture, 0, 0);
    }
    this.place();
  }

  // Pixels of the screen for one pixel of the image, and the corner of the image, on a canvas.
  layout(canvas) {
    const plane = this.study.planes[this.plane];
    const [width, height] = [plane.columns * plane.columnSpacing, plane.rows * plane.rowSpacing];
    const fit = Math.min(canvas.width / width, canvas.height / height) * this.view.zoom;
    const [across, down] = [fit * plane.columnSpacing, fit * plane.rowSpacing];
    return {
      across,
      down,
      left: canvas.width / 2 - (plane.columns * across) / 2 + this.view.x * fit,
      top: canvas.height / 2 - (plane.rows * down) / 2 + this.view.y * fit,
      fit,
    };
  }

  place() {
    if (!this.images) return;
    for (const name of this.names) {
      const { canvas, figure } = this.panes[name];
      if (figure.hidden) continue;
      const ratio = Math.min(2, window.devicePixelRatio || 1);
      const size = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
      if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
      const context = canvas.getContext("2d", { alpha: false });
      context.fillRect(0, 0, canvas.width, canvas.height);
      const compared = name === "after" && this.mode !== "panes";
      this.draw(context, compared && this.mode === "flicker" && this.flicker ? "before" : name);
      if (compared && this.mode === "curtain") {
        const edge = Math.round(this.curtain * canvas.width);
        context.save();
        context.beginPath();
        context.rect(0, 0, edge, canvas.height);
        context.clip();
        context.fillRect(0, 0, edge, canvas.height);
        this.draw(context, "before");
        context.restore();
        context.save();
        context.fillStyle = "#ffd24a";
        context.fillRect(edge - 1, 0, 2, canvas.height);
        context.restore();
      }
      if (this.cursor) this.cross(context);
      this.panes[name].caption.textContent = this.title(name);
    }
    const plane = this.study.planes[this.plane];
    const number = plane.numbers ? plane.numbers[this.index] : this.index + 1;
    const total = plane.total ?? plane.count;
    this.position.textContent = `${this.plane} ${number} of ${total}`;
    this.root.querySelectorAll(".edge-left").forEach((one) => (one.textContent = plane.edges?.[0] ?? ""));
    this.root.querySelectorAll(".edge-top").forEach((one) => (one.textContent = plane.edges?.[1] ?? ""));
  }

  draw(context, name) {
    const { source } = this.panes[name];
    const { across, down, left, top } = this.layout(context.canvas);
    context.imageSmoothingEnabled = Math.min(across, down) < 3;
    context.drawImage(source, left, top, source.width * across, source.height * down);
  }

  cross(context) {
    const { across, down, left, top } = this.layout(context.canvas);
    const [x, y] = [left + (this.cursor.column + 0.5) * across, top + (this.cursor.row + 0.5) * down];
    context.save();
    context.strokeStyle = "#4ad8ff";
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 4, y + dy * 4);
      context.lineTo(x + dx * 11, y + dy * 11);
    }
    context.stroke();
    context.restore();
  }

  title(name) {
    const [low, high] = this.range(name);
    if (name === "after" && this.mode === "curtain") return "before | after: drag the line";
    if (name === "after" && this.mode === "flicker") return this.flicker ? "before" : "after";
    if (name === "removed") return `removed, ±${high} HU`;
    if (name === "sigma") return `sigma of the noise, 0 to ${high} HU`;
    return name;
  }

  // ---- the controls ----

  build() {
    const make = (tag, className, parent, text = "") => {
      const one = document.createElement(tag);
      one.className = className;
      one.textContent = text;
      parent.append(one);
      return one;
    };
    this.root.classList.add("slices");
    const bar = make("div", "slices-bar", this.root);
    const choices = (label, names, current, chosen) => {
      const group = make("span", "slices-group", bar);
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", label);
      const buttons = names.map((name) => {
        const button = make("button", "", group, name);
        button.type = "button";
        button.addEventListener("click", () => chosen(name));
        return button;
      });
      return (value) => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.textContent === value)));
    };
    const planes = Object.keys(this.study.planes);
    this.planeShown = planes.length > 1 ? choices("plane", planes, this.plane, (name) => this.turn(name)) : () => {};
    this.planeShown(this.plane);
    this.modeShown = choices("comparison", ["panes", "curtain", "flicker"], this.mode, (name) => this.compare(name));
    this.modeShown(this.mode);
    this.presetShown = choices("window", Object.keys(SliceViewer.PRESETS), "", (name) => this.preset(name));
    this.inputs = {};
    for (const [key, label] of [["center", "center"], ["width", "width"], ["removed", "removed ±"], ["sigma", "sigma to"]]) {
      if (key === "sigma" && !("sigma" in this.steps)) continue;
      const holder = make("label", "", bar, label + " ");
      const input = make("input", "", holder);
      input.type = "number";
      input.addEventListener("change", () => {
        const value = Number(input.value);
        if (Number.isFinite(value) && (key === "center" || value > 0)) this.window[key] = value;
        this.paint();
      });
      this.inputs[key] = input;
    }
    const reset = make("button", "", bar, "reset");
    reset.type = "button";
    reset.addEventListener("click", () => this.zoomTo({ zoom: 1, x: 0, y: 0 }));
    const row = make("div", "slices-bar", this.root);
    this.slider = make("input", "slices-slider", row);
    this.slider.type = "range";
    this.slider.setAttribute("aria-label", "image");
    this.slider.min = "0";
    this.slider.max = String(this.study.planes[this.plane].count - 1);
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.position = make("output", "", row);
    const grid = make("div", "slices-grid", this.root);
    this.panes = {};
    for (const name of this.names) {
      const figure = make("figure", `slices-pane pane-${name}`, grid);
      const canvas = make("canvas", "", figure);
      canvas.setAttribute("aria-label", name);
      make("span", "edge-left", figure);
      make("span", "edge-top", figure);
      const caption = make("figcaption", "", figure, name);
      this.panes[name] = { figure, canvas, caption, source: document.createElement("canvas") };
      this.listen(name, canvas);
    }
    this.values = make("output", "slices-values", this.root, SliceViewer.HINT);
    this.note = make("p", "slices-note", this.root);
    this.root.tabIndex = 0;
    this.root.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.place()).observe(grid);
  }

  fields() {
    for (const [key, input] of Object.entries(this.inputs)) {
      if (document.activeElement !== input) input.value = String(this.window[key]);
    }
    const same = ([, preset]) => preset[0] === this.window.center && preset[1] === this.window.width;
    this.presetShown(Object.entries(SliceViewer.PRESETS).find(same)?.[0] ?? "");
  }

  preset(name) {
    [this.window.center, this.window.width] = SliceViewer.PRESETS[name];
    this.paint();
  }

  compare(mode) {
    this.mode = mode;
    this.modeShown(mode);
    this.panes.before.figure.hidden = mode !== "panes";
    this.panes.after.figure.classList.toggle("slices-wide", mode !== "panes");
    clearInterval(this.timer);
    this.flicker = false;
    if (mode === "flicker") {
      this.timer = setInterval(() => {
        this.flicker = !this.flicker;
        this.place();
      }, SliceViewer.FLICKER);
    }
    this.place();
  }

  // Another plane, through the voxel under the mouse if there was one.
  turn(plane) {
    const at = this.voxel ? { axial: this.voxel[0], coronal: this.voxel[1], sagittal: this.voxel[2] }[plane] : null;
    this.plane = plane;
    this.planeShown(plane);
    // Nothing is drawn, and no HU are told, until the first image of the plane is there.
    this.cursor = this.images = null;
    this.slider.max = String(this.study.planes[plane].count - 1);
    this.view = { zoom: 1, x: 0, y: 0 };
    if (plane !== "axial") this.message("reading all slices ...");
    return this.go(at ?? this.middle(plane));
  }

  zoomTo(view) {
    this.view = view;
    this.place();
  }

  message(text) {
    this.note.textContent = text;
  }
}

SliceViewer.PRESETS = { lung: [-600, 1500], "soft tissue": [40, 400], bone: [400, 1800], all: [-400, 1200] };
SliceViewer.KEPT = 48;
SliceViewer.AHEAD = 6;
SliceViewer.FLICKER = 500;
SliceViewer.HINT = "Wheel: scroll. Ctrl and wheel: zoom. Drag: move. Right button: window. Keys: arrows, page up and down, c, f.";
