// ReLU(GroupNorm(x)), forward and backward, for maps that are stored channels last. PyTorch has
// neither a fast backward pass of GroupNorm in this layout nor one together with the ReLU: its
// takes as long as the convolution beside it.
//
// A map holds N images of H x W pixels of P * C numbers: with phases P = 1 the C channels, with
// P = 4 those of a 2 x 2 block of pixels (row by row), which the result takes apart: y has
// N x 2H x 2W x C numbers then. All phases of a channel belong to the channel's group.
//
// Each sample is read twice, while it is in the cache. Threads share the samples, so that on the way
// back no more of them work than there are samples.

#include <cmath>
#include <cstdint>
#include <vector>

#include "bfloat16.h"

namespace {

struct Shape {
  int64_t samples, height, width, phases, channels, groups;

  int64_t pixels() const { return height * width; }
  int64_t depth() const { return phases * channels; }  // numbers per pixel of x
  int64_t size() const { return pixels() * depth(); }  // numbers per sample
  int64_t group(int64_t k) const { return (k % channels) / (channels / groups); }
  double count() const { return static_cast<double>(size() / groups); }

  // Where the result has the numbers that x has at a pixel (a row and a column) and a phase.
  int64_t target(int64_t row, int64_t column, int64_t phase) const {
    if (phases == 1) return (row * width + column) * channels;
    return ((2 * row + phase / 2) * 2 * width + 2 * column + phase % 2) * channels;
  }
};

// Sums of floats lose digits as they grow; these pass on to doubles after every row of pixels.
struct Sums {
  explicit Sums(int64_t depth) : row(2 * depth), total(2 * depth) {}

  void flush() {
    for (size_t k = 0; k < row.size(); ++k) {
      total[k] += row[k];
      row[k] = 0;
    }
  }

  std::vector<float> row;
  std::vector<double> total;
};

// Sums over the rows from begin to end: of the numbers, then of their squares.
template <typename T>
void add_up(const T* __restrict x, const Shape& s, int64_t begin, int64_t end, Sums* sums) {
  const int64_t depth = s.depth();
  float* __restrict first = sums->row.data();
  float* __restrict second = first + depth;
  for (int64_t i = begin; i < end; ++i) {
    const T* at = x + i * s.width * depth;
    for (int64_t j = 0; j < s.width; ++j, at += depth) {
      for (int64_t k = 0; k < depth; ++k) {
        const float value = load(at[k]);
        first[k] += value;
        second[k] += value * value;
      }
    }
    sums->flush();
  }
}

// What normalising and gamma and beta do to each channel: value * scale + shift.
struct Affine {
  Affine(const std::vector<double>& total, const float* gamma, const float* beta, float* mean,
         float* rstd, const Shape& s, double eps)
      : scale(s.channels), shift(s.channels) {
    std::vector<double> sum(s.groups), square(s.groups);
    for (int64_t k = 0; k < s.depth(); ++k) {
      sum[s.group(k)] += total[k];
      square[s.group(k)] += total[s.depth() + k];
    }
    for (int64_t g = 0; g < s.groups; ++g) {
      const double centre = sum[g] / s.count();
      const double variance = square[g] / s.count() - centre * centre;
      mean[g] = static_cast<float>(centre);
      rstd[g] = static_cast<float>(1.0 / std::sqrt((variance < 0 ? 0 : variance) + eps));
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      scale[c] = gamma[c] * rstd[s.group(c)];
      shift[c] = beta[c] - mean[s.group(c)] * scale[c];
    }
  }

  std::vector<float> scale, shift;
};

template <typename T>
void apply(const T* __restrict x, const Affine& affine, T* __restrict y, const Shape& s,
           int64_t begin, int64_t end) {
  const int64_t depth = s.depth(), channels = s.channels;
  const float* __restrict a = affine.scale.data();
  const float* __restrict b = affine.shift.data();
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < s.width; ++j) {
      for (int64_t phase = 0; phase < s.phases; ++phase) {
        const T* __restrict from = x + (i * s.width + j) * depth + phase * channels;
        T* __restrict to = y + s.target(i, j, phase);
        for (int64_t c = 0; c < channels; ++c) {
          const float value = load(from[c]) * a[c] + b[c];
          store(to + c, value < 0 ? 0 : value);  // not a number stays so
        }
      }
    }
  }
}

template <typename T>
void forward(const T* x, const float* gamma, const float* beta, T* y, float* mean, float* rstd,
             const Shape& s, double eps) {
  Sums sums(s.depth());
  add_up(x, s, 0, s.height, &sums);
  apply(x, Affine(sums.total, gamma, beta, mean, rstd, s, eps), y, s, 0, s.height);
}

// The same by several threads, which share the rows.
template <typename T>
void forward_together(const T* x, const float* gamma, const float* beta, T* y, float* mean,
                      float* rstd, const Shape& s, double eps, int threads) {
  std::vector<Sums> parts(threads, Sums(s.depth()));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; ++part) {
    add_up(x, s, s.height * part / threads, s.height * (part + 1) / threads, &parts[part]);
  }
  for (int part = 1; part < threads; ++part) {
    for (size_t k = 0; k < parts[0].total.size(); ++k) parts[0].total[k] += parts[part].total[k];
  }
  const Affine affine(parts[0].total, gamma, beta, mean, rstd, s, eps);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; ++part) {
    apply(x, affine, y, s, s.height * part / threads, s.height * (part + 1) / threads);
  }
}

template <typename T>
void backward(const T* __restrict gradient, const T* __restrict x, const float* gamma,
              const float* beta, const float* mean, const float* rstd, T* __restrict x_gradient,
              float* gamma_gradient, float* beta_gradient, const Shape& s) {
  const int64_t depth = s.depth(), channels = s.channels;
  std::vector<float> scale(channels), shift(channels), slope(channels), level(channels);
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = gamma[c] * rstd[s.group(c)];
    shift[c] = beta[c] - mean[s.group(c)] * scale[c];
  }
  const float* __restrict a = scale.data();
  const float* __restrict b = shift.data();
  Sums sums(channels);
  float* first = sums.row.data();
  float* second = first + channels;
  for (int64_t i = 0; i < s.height; ++i) {
    for (int64_t j = 0; j < s.width; ++j) {
      for (int64_t phase = 0; phase < s.phases; ++phase) {
        const T* __restrict from = x + (i * s.width + j) * depth + phase * channels;
        const T* __restrict at = gradient + s.target(i, j, phase);
        for (int64_t c = 0; c < channels; ++c) {
          const float value = load(from[c]);
          const float g = value * a[c] + b[c] > 0 ? load(at[c]) : 0;
          first[c] += g;
          second[c] += g * value;
        }
      }
    }
    sums.flush();
  }
  // With n = (x - mean) * rstd, the normalised map: sums of g and of g * n.
  std::vector<double> sum(s.groups), product(s.groups);
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t g = s.group(c);
    const double to_beta = sums.total[c];
    const double to_gamma = (sums.total[channels + c] - mean[g] * to_beta) * rstd[g];
    beta_gradient[c] = static_cast<float>(to_beta);
    gamma_gradient[c] = static_cast<float>(to_gamma);
    sum[g] += gamma[c] * to_beta;
    product[g] += gamma[c] * to_gamma;
  }
  // rstd * (gamma * g - mean of gamma * g - n * mean of gamma * g * n), sorted by g, x and 1.
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t g = s.group(c);
    const double bend = rstd[g] * rstd[g] * product[g] / s.count();
    slope[c] = static_cast<float>(-bend);
    level[c] = static_cast<float>(bend * mean[g] - rstd[g] * sum[g] / s.count());
  }
  const float* __restrict d = slope.data();
  const float* __restrict e = level.data();
  for (int64_t i = 0; i < s.height; ++i) {
    for (int64_t j = 0; j < s.width; ++j) {
      for (int64_t phase = 0; phase < s.phases; ++phase) {
        const int64_t place = (i * s.width + j) * depth + phase * channels;
        const T* __restrict from = x + place;
        const T* __restrict at = gradient + s.target(i, j, phase);
        T* __restrict to = x_gradient + place;
        for (int64_t c = 0; c < channels; ++c) {
          const float value = load(from[c]);
          const float g = value * a[c] + b[c] > 0 ? load(at[c]) : 0;
          store(to + c, g * a[c] + value * d[c] + e[c]);
        }
      }
    }
  }
}

template <typename T>
void forward_all(const void* x, const float* gamma, const float* beta, void* y, float* mean,
                 float* rstd, const Shape& s, double eps, int threads) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(y);
  if (s.samples < threads) {
    for (int64_t n = 0; n < s.samples; ++n) {
      forward_together(from + n * s.size(), gamma, beta, to + n * s.size(), mean + n * s.groups,
                       rstd + n * s.groups, s, eps, threads);
    }
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < s.samples; ++n) {
    forward(from + n * s.size(), gamma, beta, to + n * s.size(), mean + n * s.groups,
            rstd + n * s.groups, s, eps);
  }
}

template <typename T>
void backward_all(const void* gradient, const void* x, const float* gamma, const float* beta,
                  const float* mean, const float* rstd, void* x_gradient, float* gamma_gradient,
                  float* beta_gradient, const Shape& s, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < s.samples; ++n) {
    backward(static_cast<const T*>(gradient) + n * s.size(),
             static_cast<const T*>(x) + n * s.size(), gamma, beta, mean + n * s.groups,
             rstd + n * s.groups, static_cast<T*>(x_gradient) + n * s.size(),
             gamma_gradient + n * s.channels, beta_gradient + n * s.channels, s);
  }
}

}  // namespace

// Mean and inverse deviation: (N, G). The gradients of gamma and beta: (N, C), to be summed.
// half: whether x, y and their gradients are bfloat16, else float; all else is float.
extern "C" {

void group_norm_relu(int half, const void* x, const float* gamma, const float* beta, void* y,
                     float* mean, float* rstd, const int64_t* shape, double eps, int threads) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
  (half ? forward_all<BFloat16> : forward_all<float>)(x, gamma, beta, y, mean, rstd, s, eps,
                                                      threads);
}

void group_norm_relu_backward(int half, const void* gradient, const void* x, const float* gamma,
                              const float* beta, const float* mean, const float* rstd,
                              void* x_gradient, float* gamma_gradient, float* beta_gradient,
                              const int64_t* shape, int threads) {
  const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
  (half ? backward_all<BFloat16> : backward_all<float>)(gradient, x, gamma, beta, mean, rstd,
                                                        x_gradient, gamma_gradient, beta_gradient,
                                                        s, threads);
}

}  // extern "C"
