// The steps of IC-SBP (Algorithm 1) for inference: Gaussian kernel, stick-breaking. All that happens
// to a pixel in a step happens at once; threads share the pixels and meet after each step. And what
// leaves out masks that are too small.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int64_t kBlock = 256;  // pixels whose distances are kept at hand

inline float clamp(float x, float low, float high) {  // not a number stays so
  x = x < low ? low : x;
  return x > high ? high : x;
}

// exp and log for floats, in a form that compilers turn into vector instructions. Relative error of
// exp and absolute error of log below 2e-7 (polynomials of the Cephes library).
inline float exponential(float given) {
  const float x = given > -87.0f ? (given < 87.0f ? given : 87.0f) : -87.0f;  // always a number
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return given != given ? given : (p * r * r + r + 1.0f) * power;
}

inline float logarithm(float x) {  // of positive normal numbers, or of what is not a number
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // x = m * 2^e with m from sqrt(1/2) to sqrt(2)
  const int32_t e = (bits - 0x3f3504f3) >> 23;
  const int32_t mantissa = bits - e * (1 << 23);
  float m;
  std::memcpy(&m, &mantissa, sizeof m);
  m -= 1.0f;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float square = m * m;
  const float n = static_cast<float>(e);
  const float rest = m + (p * m * square - 0.5f * square + n * -2.12194440e-4f);
  return x != x ? x : n * 0.693359375f + rest;
}

struct Limits {
  float inverse;  // -1 / scale
  float lowest, highest, log_lowest, log_highest;
};

// A step at some pixels: the new mask, and what it leaves.
inline void shrink(const float* __restrict distance, int64_t size, const Limits limits,
                   float* __restrict mask, float* __restrict kernel, float* __restrict scope,
                   float* __restrict log_scope) {
  for (int64_t i = 0; i < size; ++i) {
    const float log_kernel = distance[i] * limits.inverse;
    const float alpha = clamp(exponential(log_kernel), limits.lowest, limits.highest);
    kernel[i] = log_kernel;
    mask[i] = log_scope[i] + clamp(log_kernel, limits.log_lowest, limits.log_highest);
    log_scope[i] += logarithm(1.0f - alpha);
    scope[i] *= 1.0f - alpha;
  }
}

// The largest of the scores so far, and the first pixel that has it.
struct alignas(64) Best {  // a cache line each, as threads write side by side
  float score = -std::numeric_limits<float>::infinity();
  int64_t pixel = -1;
};

}  // namespace

extern "C" {

// pixels: B x E x N embeddings. scores: B x N, seed scores. alpha: its lowest and its highest value.
// log_masks: B x (steps + 1) x N. log_alpha: B x steps x N, before it is clamped. log_scopes: B x
// (steps + 1) x N, what was left before each step and after the last. seeds: B x steps.
void icsbp(const float* pixels, const float* scores, int64_t batch, int64_t channels, int64_t count,
           int64_t steps, double scale, const double* alpha, float* log_masks, float* log_alpha,
           float* log_scopes, int64_t* seeds, int threads) {
  const Limits limits{static_cast<float>(-1.0 / scale), static_cast<float>(alpha[0]),
                      static_cast<float>(alpha[1]), static_cast<float>(std::log(alpha[0])),
                      static_cast<float>(std::log(alpha[1]))};
  std::vector<float> left(count), log_left(count);
  float* const scope_all = left.data();
  float* const log_scope_all = log_left.data();
  // Of each part of the pixels, in two sets, so that nobody writes what another still reads.
  std::vector<Best> bests[2] = {std::vector<Best>(threads), std::vector<Best>(threads)};
#pragma omp parallel num_threads(threads)
  for (int64_t b = 0; b < batch; ++b) {
    const float* const image = pixels + b * channels * count;
    const float* const score = scores + b * count;
    for (int64_t step = 0; step <= steps; ++step) {
      int64_t seed = 0;
      if (step > 0) {
        Best best;
        for (const Best& other : bests[(step - 1) % 2]) {
          if (other.score > best.score) best = other;
        }
        seed = std::max<int64_t>(best.pixel, 0);
      }
      const bool first = step == 0;  // only to find the first seed
      const int64_t k = step - 1;
#pragma omp for schedule(static)
      for (int part = 0; part < threads; ++part) {
        if (!first && part == 0) seeds[b * steps + k] = seed;
        const int64_t begin = count * part / threads, end = count * (part + 1) / threads;
        Best mine;
        for (int64_t start = begin; start < end; start += kBlock) {
          const int64_t size = std::min(kBlock, end - start);
          float distance[kBlock], weighted[kBlock];
          float* __restrict scope = scope_all + start;
          float* __restrict log_scope = log_scope_all + start;
          if (first) {
            for (int64_t i = 0; i < size; ++i) {
              scope[i] = 1.0f;
              log_scope[i] = 0.0f;
            }
          } else {
            std::fill(distance, distance + size, 0.0f);
            for (int64_t c = 0; c < channels; ++c) {
              const float* __restrict from = image + c * count + start;
              const float centre = image[c * count + seed];
              for (int64_t i = 0; i < size; ++i) {
                const float difference = from[i] - centre;
                distance[i] += difference * difference;
              }
            }
            float* __restrict mask = log_masks + (b * (steps + 1) + k) * count + start;
            float* __restrict kernel = log_alpha + (b * steps + k) * count + start;
            shrink(distance, size, limits, mask, kernel, scope, log_scope);
            if (step == steps) {
              float* __restrict last = log_masks + (b * (steps + 1) + steps) * count + start;
              std::copy(log_scope, log_scope + size, last);
            }
          }
          std::copy(log_scope, log_scope + size,
                    log_scopes + (b * (steps + 1) + step) * count + start);
          const float* __restrict from = score + start;
          float highest_here = -std::numeric_limits<float>::infinity();
          for (int64_t i = 0; i < size; ++i) weighted[i] = from[i] * scope[i];
#pragma omp simd reduction(max : highest_here)
          for (int64_t i = 0; i < size; ++i) highest_here = std::max(highest_here, weighted[i]);
          if (highest_here > mine.score) {
            mine.score = highest_here;
            mine.pixel = start + (std::find(weighted, weighted + size, highest_here) - weighted);
          }
        }
        bests[step % 2][part] = mine;
      }
    }
  }
}

// Leaves out the masks whose sum is below needed; the others share their pixels in proportion to what
// they have there. log_masks: B x K x N, the last one of what no seed took, all finite. kept: the same
// with those left out behind, as minus infinity. order: B x (K - 1), the seeds, those kept first.
// used: B, how many masks there are; where all are too small, the last one has all pixels.
void skip_small(const float* log_masks, int64_t batch, int64_t slots, int64_t count, double needed,
                float* kept, int64_t* order, int64_t* used, int threads) {
  const float nothing = -std::numeric_limits<float>::infinity();
  std::vector<int64_t> sources(slots);  // of each place, the mask that stands there
  std::vector<double> sums(slots);
#pragma omp parallel num_threads(threads)
  for (int64_t b = 0; b < batch; ++b) {
    const float* const image = log_masks + b * slots * count;
    float* const target = kept + b * slots * count;
#pragma omp for schedule(static)
    for (int64_t k = 0; k < slots; ++k) {
      double sum = 0;
      for (int64_t start = 0; start < count; start += kBlock) {
        const int64_t size = std::min(kBlock, count - start);
        const float* __restrict from = image + k * count + start;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < size; ++i) part += exponential(from[i]);
        sum += part;
      }
      sums[k] = sum;
    }
#pragma omp single
    {
      int64_t large = 0;
      // What is no number stays, and is seen.
      for (int64_t k = 0; k < slots; ++k) large += !(sums[k] < needed);
      used[b] = std::max<int64_t>(large, 1);
      int64_t front = 0, back = used[b];
      for (int64_t k = 0; k < slots; ++k) {
        const bool stays = !(sums[k] < needed) || (!large && k == slots - 1);
        const int64_t place = stays ? front++ : back++;
        sources[place] = k;
      }
      int64_t next = 0;
      for (int64_t n = 0; n < slots; ++n) {
        if (sources[n] < slots - 1) order[b * (slots - 1) + next++] = sources[n];
      }
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < (count + kBlock - 1) / kBlock; ++block) {
      const int64_t start = block * kBlock, size = std::min(kBlock, count - start);
      float top[kBlock], total[kBlock] = {};
      std::fill(top, top + size, nothing);
      for (int64_t n = 0; n < used[b]; ++n) {
        const float* __restrict from = image + sources[n] * count + start;
        for (int64_t i = 0; i < size; ++i) top[i] = std::max(top[i], from[i]);
      }
      for (int64_t n = 0; n < used[b]; ++n) {
        const float* __restrict from = image + sources[n] * count + start;
        for (int64_t i = 0; i < size; ++i) total[i] += exponential(from[i] - top[i]);
      }
      for (int64_t i = 0; i < size; ++i) total[i] = top[i] + logarithm(total[i]);
      for (int64_t n = 0; n < slots; ++n) {
        const float* __restrict from = image + sources[n] * count + start;
        float* __restrict to = target + n * count + start;
        const bool stays = n < used[b];
        for (int64_t i = 0; i < size; ++i) to[i] = stays ? from[i] - total[i] : nothing;
      }
    }
  }
}

}  // extern "C"
