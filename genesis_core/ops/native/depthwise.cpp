// The weights' gradient of a convolution that filters each channel by itself, channels last.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kBlock = 16;  // channels that are computed together
typedef float Block __attribute__((vector_size(kBlock * sizeof(float))));

struct Shape {
  int64_t batch, height, width, channels, out_height, out_width, padding;
};

inline Block load(const float* from) {
  Block value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// What one row of outputs adds to one row of taps, for a block of channels.
template <int kKernel, int kStride>
void add_row(const float* gradient, const float* x, float* total, const Shape& s) {
  Block sums[kKernel] = {};
  const auto add = [&](int64_t column, int first, int last) __attribute__((always_inline)) {
    const Block value = load(gradient + column * s.channels);
    const float* from = x + (column * kStride - s.padding) * s.channels;
#pragma GCC unroll 5
    for (int j = 0; j < kKernel; ++j) {
      if (j >= first && j < last) sums[j] += value * load(from + j * s.channels);
    }
  };
  for (int64_t column = 0; column < s.out_width; ++column) {
    const int64_t left = column * kStride - s.padding;
    if (left >= 0 && left + kKernel <= s.width) {
      add(column, 0, kKernel);
    } else {
      add(column, static_cast<int>(left < 0 ? -left : 0),
          static_cast<int>(s.width - left < kKernel ? s.width - left : kKernel));
    }
  }
  for (int j = 0; j < kKernel; ++j) {
    const Block sum = load(total + j * s.channels) + sums[j];
    std::memcpy(total + j * s.channels, &sum, sizeof sum);
  }
}

template <int kKernel, int kStride>
void weight_gradient(const float* gradient, const float* x, float* result, const Shape& s,
                     int threads) {
  const int64_t taps = kKernel * kKernel * s.channels;
  const int64_t rows = s.batch * s.out_height;
  std::vector<std::vector<float>> parts(threads, std::vector<float>(taps));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; ++part) {
    for (int64_t r = rows * part / threads; r < rows * (part + 1) / threads; ++r) {
      const int64_t n = r / s.out_height, row = r % s.out_height;
      const float* outputs = gradient + r * s.out_width * s.channels;
      for (int i = 0; i < kKernel; ++i) {
        const int64_t y = row * kStride - s.padding + i;
        if (y < 0 || y >= s.height) continue;
        const float* inputs = x + (n * s.height + y) * s.width * s.channels;
        float* total = parts[part].data() + i * kKernel * s.channels;
        for (int64_t c = 0; c < s.channels; c += kBlock) {
          add_row<kKernel, kStride>(outputs + c, inputs + c, total + c, s);
        }
      }
    }
  }
  for (int64_t i = 0; i < taps; ++i) {
    result[i] = 0;
    for (const auto& part : parts) result[i] += part[i];
  }
}

}  // namespace

extern "C" {

// gradient: B x OH x OW x C. x: B x H x W x C. result: K x K x C. sizes: B, H, W, C (a multiple of
// 16), OH, OW, padding, K (3 or 5), stride (1 or 2).
void depthwise_weight_gradient(const float* gradient, const float* x, float* result,
                               const int64_t* sizes, int threads) {
  const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  const bool strided = sizes[8] == 2;
  const auto run = sizes[7] == 3 ? (strided ? weight_gradient<3, 2> : weight_gradient<3, 1>)
                                 : (strided ? weight_gradient<5, 2> : weight_gradient<5, 1>);
  run(gradient, x, result, s, threads);
}

}  // extern "C"
