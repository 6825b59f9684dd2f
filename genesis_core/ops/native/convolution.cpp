// The last step of a convolution of an enlarged map: its phases added, each at its pixels.

#include <cstdint>

#include "bfloat16.h"

namespace {

// Adds phases (N x H + 1 x W + 1 x 2 x 2 x C) to a map (N x 2H x 2W x C), each at its pixels: the
// second phase's window starts a pixel after the first's.
template <typename T>
void add_phases_all(void* map, const void* phases, int64_t samples, int64_t height, int64_t width,
                    int64_t channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < samples * 2 * height; ++row) {
    const int64_t n = row / (2 * height), i = row % (2 * height) / 2, p = row % 2;
    const T* from = static_cast<const T*>(phases) +
                    ((n * (height + 1) + i + p) * (width + 1) * 4 + 2 * p) * channels;
    T* to = static_cast<T*>(map) + row * 2 * width * channels;
    for (int64_t j = 0; j < 2 * width; ++j) {
      const int64_t q = j % 2;
      const T* __restrict at = from + ((j / 2 + q) * 4 + q) * channels;
      T* __restrict pixel = to + j * channels;
      for (int64_t c = 0; c < channels; ++c) store(pixel + c, load(pixel[c]) + load(at[c]));
    }
  }
}

}  // namespace

// half: whether map and phases are bfloat16, else float.
extern "C" {

void add_phases(int half, void* map, const void* phases, int64_t samples, int64_t height,
                int64_t width, int64_t channels, int threads) {
  (half ? add_phases_all<BFloat16> : add_phases_all<float>)(map, phases, samples, height, width,
                                                            channels, threads);
}

}  // extern "C"
