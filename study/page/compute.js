// Computes a network that study/demo.py has written down, as torch does: one operation after the other.
// A tensor is {shape, data}, with its numbers in a Float32Array, the last dimension fastest.
"use strict";

const sizeOf = shape => shape.reduce((a, b) => a * b, 1);
const tensor = (shape, data = new Float32Array(sizeOf(shape))) => ({shape, data});
const map = (x, f) => tensor(x.shape, x.data.map(f));

/** `shape` with its dimensions before `dim` multiplied together, that dimension, and those after it. */
function around(shape, dim) {
  const d = dim < 0 ? dim + shape.length : dim;
  return [sizeOf(shape.slice(0, d)), shape[d], sizeOf(shape.slice(d + 1))];
}

/** a and b, tensors or numbers, put together by f, where dimensions of size 1 are repeated as need be. */
function broadcast(a, b, f, shape) {
  const out = tensor(shape);
  const reader = x => {
    if (typeof x === "number") return () => x;
    const missing = shape.length - x.shape.length;
    const steps = shape.map((_, d) => d < missing || x.shape[d - missing] === 1
      ? 0 : sizeOf(x.shape.slice(d - missing + 1)));
    return place => x.data[place.reduce((at, i, d) => at + i * steps[d], 0)];
  };
  const [readA, readB] = [reader(a), reader(b)], place = shape.map(() => 0);
  for (let i = 0; i < out.data.length; i++) {
    out.data[i] = f(readA(place), readB(place));
    for (let d = shape.length - 1; d >= 0 && ++place[d] === shape[d]; d--) place[d] = 0;
  }
  return out;
}

/** For each place i, j of each map, f(the numbers of x in rows(i) and columns(j), each [from, before, step]). */
function pool(x, shape, rows, columns, f) {
  const [height, width] = x.shape.slice(2), [h, w] = shape.slice(2), out = tensor(shape);
  for (let plane = 0; plane < shape[0] * shape[1]; plane++)
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) {
        const seen = [], [top, bottom, down] = rows(i), [left, end, right] = columns(j);
        for (let y = top; y < bottom; y += down)
          for (let z = left; z < end; z += right)
            if (y >= 0 && y < height && z >= 0 && z < width) seen.push(x.data[(plane * height + y) * width + z]);
        out.data[(plane * h + i) * w + j] = f(seen);
      }
  return out;
}

/** For each line of x along each of `dims` in turn, f(its numbers); these dimensions go, or stay with size 1. */
function along(x, dims, keep, f) {
  return dims.map(d => d < 0 ? d + x.shape.length : d).sort((a, b) => b - a).reduce((result, dim) => {
    const [, n, after] = around(result.shape, dim);
    const out = tensor([...result.shape.slice(0, dim), ...keep ? [1] : [], ...result.shape.slice(dim + 1)]);
    out.data.forEach((_, i) => {
      const first = Math.floor(i / after) * n * after + i % after;
      out.data[i] = f(Array.from({length: n}, (_, k) => result.data[first + k * after]));
    });
    return out;
  }, x);
}

const windows = (size, stride, padding, step) => i => [i * stride - padding, i * stride - padding + size * step, step];
const sum = numbers => numbers.reduce((a, b) => a + b, 0);

function logSoftmax(x, dim) {
  const [before, n, after] = around(x.shape, dim), out = tensor(x.shape);
  for (let i = 0; i < before; i++)
    for (let j = 0; j < after; j++) {
      const places = Array.from({length: n}, (_, k) => (i * n + k) * after + j);
      const most = Math.max(...places.map(p => x.data[p]));
      const total = Math.log(sum(places.map(p => Math.exp(x.data[p] - most))));
      for (const p of places) out.data[p] = x.data[p] - most - total;
    }
  return out;
}

/** The error function: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; within 2e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

// By torch's names, with torch's arguments; `this` is the operation, with the shape that comes out.
const operations = {
  conv2d(x, weight, bias, [down, right], [top, left], [dilationY, dilationX], groups) {
    const [images, channels, height, width] = x.shape, [filters, depth, rows, columns] = weight.shape;
    const out = tensor(this.shape), [h, w] = this.shape.slice(2);
    for (let image = 0; image < images; image++)
      for (let filter = 0; filter < filters; filter++) {
        const plane = out.data.subarray((image * filters + filter) * h * w, (image * filters + filter + 1) * h * w);
        if (bias) plane.fill(bias.data[filter]);
        const first = Math.floor(filter / (filters / groups)) * depth;
        for (let k = 0, c = 0; c < depth; c++) {
          const start = (image * channels + first + c) * height * width;
          for (let ky = 0; ky < rows; ky++)
            for (let kx = 0; kx < columns; kx++, k++) {
              const factor = weight.data[filter * depth * rows * columns + k], offset = kx * dilationX - left;
              const from = Math.max(0, Math.ceil(-offset / right));
              const to = Math.min(w, Math.floor((width - 1 - offset) / right) + 1);
              for (let i = 0; i < h; i++) {
                const y = i * down - top + ky * dilationY;
                if (y < 0 || y >= height) continue;
                for (let j = from; j < to; j++)
                  plane[i * w + j] += factor * x.data[start + y * width + j * right + offset];
              }
            }
        }
      }
    return out;
  },
  batch_norm(x, weight, bias, mean, variance, training, momentum, epsilon) {
    const [, channels, places] = around(x.shape, 1), out = tensor(x.shape);
    for (let i = 0; i < out.data.length; i++) {
      const c = Math.floor(i / places) % channels;
      out.data[i] = (x.data[i] - mean.data[c]) / Math.sqrt(variance.data[c] + epsilon)
        * (weight ? weight.data[c] : 1) + (bias ? bias.data[c] : 0);
    }
    return out;
  },
  linear(x, weight, bias) {
    const [filters, depth] = weight.shape, out = tensor(this.shape);
    for (let i = 0; i < out.data.length; i++) {
      const row = Math.floor(i / filters) * depth, filter = i % filters;
      let value = bias ? bias.data[filter] : 0;
      for (let k = 0; k < depth; k++) value += x.data[row + k] * weight.data[filter * depth + k];
      out.data[i] = value;
    }
    return out;
  },
  max_pool2d(x, kernel, stride, padding, dilation) {
    const [rows, columns] = [0, 1].map(d => windows(kernel[d], (stride[d] ?? kernel[d]), padding[d], dilation[d]));
    return pool(x, this.shape, rows, columns, seen => Math.max(...seen));
  },
  avg_pool2d(x, kernel, stride, padding, ceil, includePadding) {
    const [rows, columns] = [0, 1].map(d => windows(kernel[d], stride[d] ?? kernel[d], padding[d], 1));
    return pool(x, this.shape, rows, columns,
      seen => sum(seen) / (includePadding ? kernel[0] * kernel[1] : seen.length));
  },
  adaptive_avg_pool2d(x) {
    const [rows, columns] = [2, 3].map(d => i => [Math.floor(i * x.shape[d] / this.shape[d]),
      Math.ceil((i + 1) * x.shape[d] / this.shape[d]), 1]);
    return pool(x, this.shape, rows, columns, seen => sum(seen) / seen.length);
  },
  mean(x, dims, keep) { return along(x, dims, keep, numbers => sum(numbers) / numbers.length); },
  sum(x, dims, keep) { return along(x, dims, keep, sum); },
  amin(x, dims, keep) { return along(x, dims, keep, numbers => Math.min(...numbers)); },
  amax(x, dims, keep) { return along(x, dims, keep, numbers => Math.max(...numbers)); },
  pad(x, [left, , top = 0], mode, value) {
    const [height, width] = x.shape.slice(2), [h, w] = this.shape.slice(2), out = tensor(this.shape);
    out.data.forEach((_, i) => {
      let y = Math.floor(i / w) % h - top, z = i % w - left;
      const inside = y >= 0 && y < height && z >= 0 && z < width;
      [y, z] = [Math.min(Math.max(y, 0), height - 1), Math.min(Math.max(z, 0), width - 1)];
      out.data[i] = inside || mode === "replicate" ? x.data[(Math.floor(i / (w * h)) * height + y) * width + z]
        : value ?? 0;
    });
    return out;
  },
  slice(x, dim, start, end, step) {
    const [, n, after] = around(x.shape, dim), [, count] = around(this.shape, dim), out = tensor(this.shape);
    const first = Math.max(0, (start ?? 0) < 0 ? start + n : start ?? 0);
    out.data.forEach((_, i) => {
      const k = first + Math.floor(i / after) % count * step;
      out.data[i] = x.data[(Math.floor(i / (after * count)) * n + k) * after + i % after];
    });
    return out;
  },
  cat(tensors, dim) {
    const out = tensor(this.shape), [before] = around(this.shape, dim);
    for (let i = 0, at = 0; i < before; i++)
      for (const {data} of tensors) {
        out.data.set(data.subarray(i * data.length / before, (i + 1) * data.length / before), at);
        at += data.length / before;
      }
    return out;
  },
  arange(count) { return tensor(this.shape, Float32Array.from({length: count}, (_, i) => i)); },
  expand(x) { return broadcast(x, 0, x => x, this.shape); },
  grid_sampler(x, grid) {
    const [height, width] = x.shape.slice(2), [, channels, h, w] = this.shape, out = tensor(this.shape);
    out.data.forEach((_, i) => {
      const plane = Math.floor(i / (h * w)), place = Math.floor(plane / channels) * h * w + i % (h * w);
      const right = ((grid.data[2 * place] + 1) * width - 1) / 2, down = ((grid.data[2 * place + 1] + 1) * height - 1) / 2;
      for (const y of [Math.floor(down), Math.floor(down) + 1])
        for (const z of [Math.floor(right), Math.floor(right) + 1])
          if (y >= 0 && y < height && z >= 0 && z < width)
            out.data[i] += x.data[(plane * height + y) * width + z] * (1 - Math.abs(down - y)) * (1 - Math.abs(right - z));
    });
    return out;
  },
  reshape(x) { return tensor(this.shape, x.data); },
  relu(x) { return map(x, v => Math.max(v, 0)); },
  leaky_relu(x, slope) { return map(x, v => v < 0 ? slope * v : v); },
  elu(x, alpha, scale, inner) { return map(x, v => scale * (v > 0 ? v : alpha * Math.expm1(inner * v))); },
  silu(x) { return map(x, v => v / (1 + Math.exp(-v))); },
  gelu(x, approximate) {
    return map(x, approximate === "tanh" ? v => v / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))
      : v => v / 2 * (1 + erf(v / Math.SQRT2)));
  },
  hardtanh(x, least, most) { return map(x, v => Math.min(Math.max(v, least), most)); },
  sigmoid(x) { return map(x, v => 1 / (1 + Math.exp(-v))); },
  tanh(x) { return map(x, Math.tanh); },
  add(a, b) { return broadcast(a, b, (x, y) => x + y, this.shape); },
  sub(a, b) { return broadcast(a, b, (x, y) => x - y, this.shape); },
  mul(a, b) { return broadcast(a, b, (x, y) => x * y, this.shape); },
  div(a, b) { return broadcast(a, b, (x, y) => x / y, this.shape); },
  log_softmax: logSoftmax,
  softmax(x, dim) { return map(logSoftmax(x, dim), Math.exp); },
  dropout(x) { return x; },
  pow(x, exponent) { return map(x, v => v ** exponent); },
  sqrt(x) { return map(x, Math.sqrt); },
};

/** The tensors of `network`, by name, when it is given `image`: 784 numbers, normalised. */
function compute(network, image) {
  const known = {...network.tensors, [network.input]: tensor([1, 1, 28, 28], Float32Array.from(image))};
  const value = arg => Array.isArray(arg) ? arg.map(value) : arg !== null && typeof arg === "object"
    ? known[arg.tensor] : arg;
  for (const operation of network.operations)
    known[operation.name] = operations[operation.kind].apply(operation, operation.args.map(value));
  return known;
}

/** The bytes that `text` has in base64. */
const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
