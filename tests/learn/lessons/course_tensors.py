import time

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

# %% where to compute
device = "cuda" if torch.cuda.is_available() else "cpu"
print(device)

# %% timing
began = time.time()
zeros = torch.zeros(1, 1)
print(f"{time.time() - began:.8f}")

# %% a product on the device, and NumPy's
left, right = torch.rand(10, 20, 20).to(device), torch.rand(10, 20, 20).to(device)
product = torch.matmul(left, right)
by_numpy = np.matmul(left.numpy(), right.numpy())

# %% draws with given weights
probabilities = torch.tensor([0.1, 0.9])
samples = torch.multinomial(probabilities, num_samples=10, replacement=True)
print(samples)

# %% joining
tensor = torch.tensor([1, 2, 3, 4])
joined = torch.cat((tensor, torch.tensor([5])), dim=0)
print(joined)

# %% triangles, and the mask of causal attention
lower = torch.tril(torch.ones(5, 5))
upper = torch.triu(torch.ones(5, 5))
masked = torch.zeros(5, 5).masked_fill(torch.tril(torch.ones(5, 5)) == 0, float("-inf"))
back = torch.exp(masked)
print(lower, upper, masked, back)

# %% exchanging axes
cube = torch.zeros(2, 3, 4)
first, last = cube.transpose(0, 1), cube.transpose(-2, -1)
print(first.shape, last.shape)

# %% stacking
stacked = torch.stack([torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9])])
print(stacked)

# %% a layer
sample = torch.tensor([10.0, 10.0, 10.0])
linear = nn.Linear(3, 3, bias=False)
print(linear(sample))

# %% softmax
softened = F.softmax(torch.tensor([1.0, 2.0, 3.0]), dim=0)
print(softened)

# %% an embedding
vocab_size, embedding_dim = 80, 6
embedding = nn.Embedding(vocab_size, embedding_dim)
input_indices = torch.LongTensor([1, 5, 3, 2])
embedded = embedding(input_indices)
print(embedded.shape)

# %% products of integers, and of integers made floats
a = torch.tensor([[1, 2], [3, 4], [5, 6]])
b = torch.tensor([[7, 8, 9], [10, 11, 12]])
both = torch.matmul(a, b)
int_64 = torch.randint(5, (3, 2))
float_32 = torch.rand(2, 3)
print(int_64.dtype, float_32.dtype)
mixed = torch.matmul(int_64.float(), float_32)
again = int_64.type(torch.float32) @ float_32
halves = torch.tensor([1, 2, 3]) / 2
print(both, a @ b, mixed.shape, halves)

# %% other shapes
a = torch.rand(2, 3, 5)
x, y, z = a.shape
a = a.view(x, y, z)
logits = torch.rand((4, 8, 10))
B, T, C = logits.shape
flat = logits.view(B * T, C)
print(a.shape, flat.shape, logits[:, -1, :].shape)

# %% an activation
one = torch.tensor([10], dtype=torch.float32)
squashed = F.tanh(one)
print(squashed)
