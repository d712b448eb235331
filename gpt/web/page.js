"use strict";

/* <tt-attention data-content='{"labels": [...], "pieces": [...], "weights": [...]}'>: a text of T tokens, in which the
   chosen token shows how much of each token it takes. weights: the lower triangle of the (T, T) weights, row by row, in
   thousandths. */
customElements.define("tt-attention", class extends HTMLElement {
  connectedCallback() {
    Object.assign(this, JSON.parse(this.dataset.content));
    this.tokens = this.pieces.map((piece, i) => {
      const token = document.createElement("span");
      token.className = "tt-token";
      token.tabIndex = 0;
      token.textContent = piece;
      for (const event of ["mouseenter", "focus", "click"]) token.addEventListener(event, () => this.choose(i));
      return token;
    });
    this.readout = document.createElement("span");
    this.readout.className = "tt-hint";
    this.replaceChildren(...this.tokens, this.readout);
    this.choose(this.tokens.length - 1);
  }

  choose(i) {
    const row = this.weights.slice(i * (i + 1) / 2, (i + 1) * (i + 2) / 2);  // of tokens 0 ... i
    this.tokens.forEach((token, j) => {
      token.classList.toggle("chosen", j === i);
      // the square root, so that small weights can be seen
      token.style.background = `color-mix(in srgb, var(--tt-look) ${100 * Math.sqrt((row[j] ?? 0) / 1000)}%, transparent)`;
    });
    const most = row.map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 5);
    const list = most.map(([weight, j]) => `${this.labels[j]} (position ${j}) ${(weight / 10).toFixed(1)} %`).join(", ");
    this.readout.textContent = `${this.labels[i]} (position ${i}) looks at: ${list}`;
  }
});
