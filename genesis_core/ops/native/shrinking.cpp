// Shrinks an 8-bit RGB image by averaging: each target pixel is the mean of the area that it covers.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

typedef float Pixel __attribute__((vector_size(16)));  // red, green, blue, and what follows them
typedef int32_t Rounded __attribute__((vector_size(16)));

constexpr int kChannels = 3;
constexpr int kRows = 4;  // source rows that are added up in one pass

// What a target pixel covers along a side: sources from `first` on, with weights that sum to one.
struct Span {
  int64_t first;
  std::vector<float> weights;
};

std::vector<Span> spans(int64_t source, int64_t target) {
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  std::vector<Span> all(target);
  for (int64_t i = 0; i < target; ++i) {
    const double begin = static_cast<double>(i) * scale;
    const double end = std::min(begin + scale, static_cast<double>(source));
    Span& span = all[i];
    span.first = std::min(static_cast<int64_t>(begin), source - 1);
    for (int64_t j = span.first; j < source && static_cast<double>(j) < end; ++j) {
      const double from = std::max(begin, static_cast<double>(j));
      const double to = std::min(end, static_cast<double>(j + 1));
      // Less than this is what rounding left over.
      if (to - from > 1e-6 * scale || span.weights.empty()) {
        span.weights.push_back(static_cast<float>((to - from) / (end - begin)));
      }
    }
  }
  return all;
}

// sums[i] (+)= weights of `count` rows times their values.
void add_rows(const uint8_t* const* rows, const float* weights, int count, bool add, int64_t n,
              float* sums) {
  const uint8_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  const float p = weights[0], q = weights[1], r = weights[2], s = weights[3];
  if (count <= 2) {
    for (int64_t i = 0; i < n; ++i) sums[i] = p * a[i] + q * b[i] + (add ? sums[i] : 0.0f);
  } else if (count == 3) {
    for (int64_t i = 0; i < n; ++i)
      sums[i] = p * a[i] + q * b[i] + r * c[i] + (add ? sums[i] : 0.0f);
  } else {
    for (int64_t i = 0; i < n; ++i)
      sums[i] = (p * a[i] + q * b[i]) + (r * c[i] + s * d[i]) + (add ? sums[i] : 0.0f);
  }
}

Pixel load(const float* from) {
  Pixel pixel;
  __builtin_memcpy(&pixel, from, sizeof pixel);
  return pixel;
}

}  // namespace

// image: height x width x 3, its rows `stride` bytes apart; shrunk: target_height x target_width x 3.
extern "C" void shrink_rgb(const uint8_t* image, int64_t stride, int64_t height, int64_t width,
                           uint8_t* shrunk, int64_t target_height, int64_t target_width) {
  const std::vector<Span> down = spans(height, target_height);
  const std::vector<Span> across = spans(width, target_width);
  const int64_t n = width * kChannels;
  std::vector<float> sums(n + 1);  // the last pixel is read with what follows it
  for (int64_t y = 0; y < target_height; ++y) {
    const std::vector<float>& weights = down[y].weights;
    const int64_t rows = static_cast<int64_t>(weights.size());
    for (int64_t k = 0; k < rows; k += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, rows - k));
      const uint8_t* sources[kRows];
      float factors[kRows];
      for (int j = 0; j < kRows; ++j) {
        sources[j] = image + (down[y].first + k + std::min(j, count - 1)) * stride;
        factors[j] = j < count ? weights[k + j] : 0.0f;
      }
      add_rows(sources, factors, count, k > 0, n, sums.data());
    }
    uint8_t* target = shrunk + y * target_width * kChannels;
    for (const Span& span : across) {
      const float* from = sums.data() + span.first * kChannels;
      Pixel sum = {0.5f, 0.5f, 0.5f, 0.5f};  // to the nearest, as conversion rounds down
      for (const float weight : span.weights) {
        sum += weight * load(from);
        from += kChannels;
      }
      const Rounded rounded = __builtin_convertvector(sum, Rounded);
      target[0] = static_cast<uint8_t>(rounded[0]);
      target[1] = static_cast<uint8_t>(rounded[1]);
      target[2] = static_cast<uint8_t>(rounded[2]);
      target += kChannels;
    }
  }
}
