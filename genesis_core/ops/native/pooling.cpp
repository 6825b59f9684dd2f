// Sums of pixels' features, weighted by masks: what a product of matrices gives, without a copy of
// the features in another precision. Threads share the pixels.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16.h"

namespace {

constexpr int64_t kBlock = 256;  // pixels whose sum is a float's; sums of blocks are doubles

template <typename T>
void pool_part(const float* masks, const T* features, int64_t slots, int64_t count,
               int64_t channels, int64_t begin, int64_t end, std::vector<double>* total) {
  std::vector<float> pixel(channels), sums(slots * (channels + 1));
  for (int64_t start = begin; start < end; start += kBlock) {
    const int64_t stop = std::min(start + kBlock, end);
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t p = start; p < stop; ++p) {
      const T* __restrict from = features + p * channels;
      float* __restrict values = pixel.data();
      for (int64_t c = 0; c < channels; ++c) values[c] = load(from[c]);
      for (int64_t k = 0; k < slots; ++k) {
        const float weight = masks[k * count + p];
        float* __restrict sum = sums.data() + k * (channels + 1);
        for (int64_t c = 0; c < channels; ++c) sum[c] += weight * values[c];
        sum[channels] += weight;
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) (*total)[i] += sums[i];
  }
}

template <typename T>
void pool_all(const float* masks, const void* features, int64_t batch, int64_t slots, int64_t count,
              int64_t channels, float* sums, int threads) {
  const int64_t size = slots * (channels + 1);
  std::vector<std::vector<double>> parts(batch * threads, std::vector<double>(size));
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
  for (int64_t b = 0; b < batch; ++b) {
    for (int part = 0; part < threads; ++part) {
      pool_part(masks + b * slots * count,
                static_cast<const T*>(features) + b * count * channels, slots, count, channels,
                count * part / threads, count * (part + 1) / threads, &parts[b * threads + part]);
    }
  }
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int part = 0; part < threads; ++part) sum += parts[b * threads + part][i];
      sums[b * size + i] = static_cast<float>(sum);
    }
  }
}

}  // namespace

extern "C" {

// masks: B x K x N. features: B x N x C, bfloat16 if half, else float. sums: B x K x (C + 1), the
// last of each row being the mask's own sum.
void pool(int half, const float* masks, const void* features, int64_t batch, int64_t slots,
          int64_t count, int64_t channels, float* sums, int threads) {
  (half ? pool_all<BFloat16> : pool_all<float>)(masks, features, batch, slots, count, channels,
                                                sums, threads);
}

}  // extern "C"
