// Channels that describe the surface at each pixel, from points: what models/points.py says in array
// operations, here in a few passes. Both give the same, but for rounding. Where a surface has no
// direction, as among a few scattered points, its normal is nothing but rounding.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int kPoint = 4;     // X, Y, Z, and 1 where they are known, else 0
constexpr int kChannels = 8;  // as models/points.py has them

using Plane = std::vector<float>;

// Sums in windows of 2 reach + 1 pixels along both sides, nothing being outside; over their area.
void average(const Plane& plane, int64_t size, int64_t reach, Plane* column, Plane* averages) {
  const float area = static_cast<float>((2 * reach + 1) * (2 * reach + 1));
  column->resize(size);
  averages->resize(size * size);
  for (int64_t y = 0; y < size; ++y) {
    float* __restrict sums = column->data();
    std::fill(sums, sums + size, 0.0f);
    for (int64_t v = std::max<int64_t>(y - reach, 0); v <= std::min(y + reach, size - 1); ++v) {
      const float* __restrict row = plane.data() + v * size;
      for (int64_t x = 0; x < size; ++x) sums[x] += row[x];
    }
    for (int64_t x = 0; x < size; ++x) {
      float sum = 0;
      for (int64_t u = std::max<int64_t>(x - reach, 0); u <= std::min(x + reach, size - 1); ++u) {
        sum += sums[u];
      }
      (*averages)[y * size + x] = sum / area;
    }
  }
}

class Image {
 public:
  Image(int64_t size, int64_t reach) : size_(size), reach_(reach) {
    for (Plane& plane : places_) plane.resize(size * size);
    known_.resize(size * size);
  }

  // Means of the known points in blocks; returns how many blocks have one.
  int64_t shrink(const float* points, int64_t stride) {
    const int64_t width = size_ * stride, area = width * width;
    int64_t count = 0;
    for (int64_t y = 0; y < size_; ++y) {
      for (int64_t x = 0; x < size_; ++x) {
        float sums[3] = {0, 0, 0};
        int64_t inside = 0;
        for (int64_t v = y * stride; v < (y + 1) * stride; ++v) {
          for (int64_t n = v * width + x * stride; n < v * width + (x + 1) * stride; ++n) {
            if (!(points[3 * area + n] > 0)) continue;
            ++inside;
            for (int i = 0; i < 3; ++i) sums[i] += points[i * area + n];
          }
        }
        const int64_t n = y * size_ + x;
        known_[n] = inside > 0;
        for (int i = 0; i < 3; ++i) {
          places_[i][n] = inside ? sums[i] / static_cast<float>(inside) : 0.0f;
        }
        count += inside > 0;
      }
    }
    return count;
  }

  void centre(int64_t count) {
    for (Plane& plane : places_) {
      double sum = 0;
      for (const float value : plane) sum += value;
      const float mean = static_cast<float>(sum / static_cast<double>(std::max<int64_t>(count, 1)));
      for (size_t n = 0; n < plane.size(); ++n) plane[n] = known_[n] > 0 ? plane[n] - mean : 0.0f;
    }
  }

  // Writes kChannels numbers for each pixel.
  void describe(float reach_metres, float* features) {
    average(known_, size_, reach_, &column_, &share_);
    for (int i = 0; i < 3; ++i) {
      average(places_[i], size_, reach_, &column_, &smooth_[i]);
      for (size_t n = 0; n < share_.size(); ++n) smooth_[i][n] /= std::max(share_[n], 1e-3f);
    }
    for (int64_t y = 0; y < size_; ++y) {
      const int64_t above = std::max<int64_t>(y - reach_, 0) * size_;
      const int64_t below = std::min(y + reach_, size_ - 1) * size_;
      for (int64_t x = 0; x < size_; ++x) {
        const int64_t n = y * size_ + x;
        const int64_t left = std::max<int64_t>(x - reach_, 0), right = std::min(x + reach_, size_ - 1);
        float across[3], down[3];
        for (int i = 0; i < 3; ++i) {
          across[i] = smooth_[i][y * size_ + right] - smooth_[i][y * size_ + left];
          down[i] = smooth_[i][below + x] - smooth_[i][above + x];
        }
        const float normal[3] = {across[1] * down[2] - across[2] * down[1],
                                 across[2] * down[0] - across[0] * down[2],
                                 across[0] * down[1] - across[1] * down[0]};
        const float length = std::max(
            std::sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2]), 1e-9f);
        float* pixel = features + n * kChannels;
        for (int i = 0; i < 3; ++i) {
          pixel[i] = std::clamp(places_[i][n] / reach_metres, -2.0f, 2.0f);
          pixel[3 + i] = normal[i] / length * known_[n];
        }
        pixel[6] = share_[n] * known_[n];
        pixel[7] = known_[n];
      }
    }
  }

 private:
  const int64_t size_, reach_;
  Plane places_[3], smooth_[3], known_, share_, column_;
};

}  // namespace

extern "C" {

// points: batch x 4 x (size * stride) squared. features: batch x size x size x 8. present: of each
// image, 1 if it has a known point, else 0. Threads share the images.
void describe_points(const float* points, int64_t batch, int64_t size, int64_t stride, int64_t reach,
                     float reach_metres, float* features, float* present, int threads) {
  const int64_t area = size * stride * size * stride;
#pragma omp parallel for num_threads(threads) schedule(static) if (batch > 1)
  for (int64_t b = 0; b < batch; ++b) {
    Image image(size, reach);
    const int64_t count = image.shrink(points + b * kPoint * area, stride);
    image.centre(count);
    image.describe(reach_metres, features + b * size * size * kChannels);
    present[b] = count > 0;
  }
}

}  // extern "C"
