"use strict";

/* The attention view, <div class="tt-attention" data-weights="[...]"> with a span for each of its T tokens: the one that
   the user points at, or taps, shows how much of each token it takes. data-weights: the lower triangle of the (T, T)
   weights, row by row, in thousandths. */
function showAttention(event) {
  const chosen = event.target.closest?.(".tt-attention > .tt-token");
  if (!chosen) return;
  const view = chosen.parentElement;
  const tokens = [...view.querySelectorAll(".tt-token")];
  const i = tokens.indexOf(chosen);
  const row = JSON.parse(view.dataset.weights).slice(i * (i + 1) / 2, (i + 1) * (i + 2) / 2);  // of tokens 0 ... i
  tokens.forEach((token, j) => {
    token.classList.toggle("chosen", j === i);
    // the square root, so that small weights can be seen
    token.style.background = `color-mix(in srgb, var(--tt-look) ${100 * Math.sqrt((row[j] ?? 0) / 1000)}%, transparent)`;
  });
  const name = (j) => `${tokens[j].ariaLabel} (position ${j})`;
  const most = row.map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  const list = most.map(([weight, j]) => `${name(j)} ${(weight / 10).toFixed(1)} %`).join(", ");
  view.querySelector(".tt-hint").textContent = `${name(i)} looks at: ${list}`;
}

// on the document, since the page replaces its parts
for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, showAttention);
