import torch
import torch.nn.functional as F

with open("input.txt", encoding="utf-8") as f:
    words = sorted({w for w in f.read().lower().split() if w.isalpha()})

# %% counts of pairs
chars = sorted(set("".join(words)))
stoi = {s: i + 1 for i, s in enumerate(chars)}
stoi["."] = 0
itos = {i: s for s, i in stoi.items()}
V = len(stoi)
N = torch.zeros((V, V), dtype=torch.int32)
for w in words:
    chs = [".", *w, "."]
    for ch1, ch2 in zip(chs, chs[1:], strict=False):
        N[stoi[ch1], stoi[ch2]] += 1
print(N[0])

# %% draws by a generator
p = N[0].float()
p = p / p.sum()
g = torch.Generator().manual_seed(2147483647)
ix = torch.multinomial(p, num_samples=1, replacement=True, generator=g).item()
print(itos[ix])
thirds = torch.rand(3, generator=g)
thirds = thirds / thirds.sum()

P = (N + 1).float()
P /= P.sum(1, keepdims=True)
out = []
ix = 0
while len(out) < 20:
    ix = torch.multinomial(P[ix], num_samples=1, replacement=True, generator=g).item()
    out.append(itos[ix])
    if ix == 0:
        break
print("".join(out))

# %% the likelihood of the words
log_likelihood = 0.0
n = 0
for w in words:
    chs = [".", *w, "."]
    for ch1, ch2 in zip(chs, chs[1:], strict=False):
        prob = P[stoi[ch1], stoi[ch2]]
        logprob = torch.log(prob)
        log_likelihood += logprob
        n += 1
print(f"{prob:.4f} {logprob:.4f}")
counted_loss = (-log_likelihood / n).item()
print(f"{log_likelihood=}")

# %% the same by a network
xs = torch.tensor([stoi[a] for w in words for a in [".", *w]])
ys = torch.tensor([stoi[b] for w in words for b in [*w, "."]])
num = xs.nelement()
g = torch.Generator().manual_seed(2147483647)
W = torch.randn((V, V), generator=g, requires_grad=True)
history = []
for _k in range(60):
    xenc = F.one_hot(xs, num_classes=V).float()
    logits = xenc @ W
    counts = logits.exp()
    probs = counts / counts.sum(1, keepdims=True)
    loss = -probs[torch.arange(num), ys].log().mean() + 0.01 * (W**2).mean()
    history.append(loss.item())
    W.grad = None
    loss.backward()
    W.data += -20 * W.grad
print(history[-1], W.grad.shape)

# %% and draws from it
for _i in range(2):
    out = []
    ix = 0
    while len(out) < 20:
        xenc = F.one_hot(torch.tensor([ix]), num_classes=V).float()
        counts = (xenc @ W).exp()
        p = counts / counts.sum(1, keepdims=True)
        ix = torch.multinomial(p, num_samples=1, replacement=True, generator=g).item()
        out.append(itos[ix])
        if ix == 0:
            break
    print("".join(out))
