// What is seen of a drawing: moved by dragging, magnified by buttons, keys, two fingers, or the wheel with Ctrl.

const MOST = 12; // times

export class View {
  constructor() {
    Object.assign(this, { k: 1, x: 0, y: 0, dragged: false });
    this.fingers = new Map(); // pointer -> where it is
  }

  /** changed(): after every move. size(): of the drawing, in its own units. */
  attach(svg, size, changed) {
    Object.assign(this, { svg, size, changed });
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 250), this.where(event));
    }, { passive: false });
    svg.addEventListener("pointerdown", (event) => this.down(event));
    svg.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    svg.addEventListener("dblclick", (event) => !event.target.closest(".dot") && this.by(1.8, this.where(event)));
    svg.addEventListener("keydown", (event) => {
      const acts = { "+": () => this.by(1.5), "=": () => this.by(1.5), "-": () => this.by(1 / 1.5), 0: () => this.reset() };
      if (!acts[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      acts[event.key]();
    });
  }

  where(event) {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    this.fingers.set(event.pointerId, this.where(event));
    this.dragged = false;
  }

  move(event) {
    const from = this.fingers.get(event.pointerId);
    if (!from || (this.k === 1 && this.fingers.size < 2)) return;
    const to = this.where(event);
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    this.fingers.set(event.pointerId, to);
    if (Math.hypot(to[0] - from[0], to[1] - from[1]) > 2) this.dragged = true;
    if (other) {
      const far = (p) => Math.max(10, Math.hypot(p[0] - other[0], p[1] - other[1]));
      this.by(far(to) / far(from), other);
      return;
    }
    this.x += to[0] - from[0];
    this.y += to[1] - from[1];
    this.settle();
  }

  /** Whether the last press was a click, and no drag. */
  still() {
    return !this.dragged;
  }

  /** Magnify by a factor, so that what is at a point stays there; without one, at the middle. */
  by(factor, at = [this.size().width / 2, this.size().height / 2]) {
    const k = Math.min(MOST, Math.max(1, this.k * factor));
    this.x = at[0] - ((at[0] - this.x) * k) / this.k;
    this.y = at[1] - ((at[1] - this.y) * k) / this.k;
    this.k = k;
    this.settle();
  }

  reset() {
    Object.assign(this, { k: 1, x: 0, y: 0 });
    this.changed();
  }

  /** Nobody gets lost: the drawing covers its frame. */
  settle() {
    const { width, height } = this.size();
    this.x = Math.min(0, Math.max(width * (1 - this.k), this.x));
    this.y = Math.min(0, Math.max(height * (1 - this.k), this.y));
    this.changed();
  }

  /** Where a point of the drawing is seen. */
  seen([x, y]) {
    return [x * this.k + this.x, y * this.k + this.y];
  }
}
