// Where the visible surfaces of objects are, from labels and depth: what perception/depth.py says in
// array operations, here in a few passes over each object's pixels. Both give the same, but for
// rounding.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// As in perception/depth.py, which hands them over.
struct Rules {
  double least_pixels, samples, fragment, least_jump, steepest, bin, least_bin, thin, most_bins, trim;
};

struct Image {
  const uint8_t* labels;
  const float* depth;
  int64_t height, width;
};

struct Box {
  int64_t left = std::numeric_limits<int64_t>::max(), top = left, right = -1, bottom = -1, area = 0;
};

// Pixels of a mask side by side, from begin to before end.
struct Run {
  int64_t begin, end;
  int64_t part;  // a run of the same part; the part's first one names itself
  int64_t area;  // of the part, at its first run
};

constexpr uint64_t kOnes = 0x0101010101010101;  // times a label: eight pixels of it

uint64_t eight(const uint8_t* pixels) {
  uint64_t value;
  std::memcpy(&value, pixels, sizeof value);
  return value;
}

// Of each of the 256 labels.
std::vector<Box> find_boxes(const Image& image) {
  std::vector<Box> boxes(256);
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.labels + y * image.width;
    for (int64_t x = 0, end; x < image.width; x = end) {
      end = x + 1;
      while (end + 8 <= image.width && eight(row + end) == row[x] * kOnes) end += 8;
      while (end < image.width && row[end] == row[x]) ++end;
      Box& box = boxes[row[x]];
      box.left = std::min(box.left, x);
      box.right = std::max(box.right, end - 1);
      box.top = std::min(box.top, y);
      box.bottom = y;
      box.area += end - x;
    }
  }
  return boxes;
}

// An object's pixels, each second, third... row and column of a large one's where these tell enough,
// and a few around them.
template <typename Ray>
class Surface {
 public:
  Surface(const Rules& rules, const Image& image, const Ray* rays_x, const Ray* rays_y,
          const int64_t* steps, double focal_length)
      : rules_(rules), image_(image), rays_x_(rays_x), rays_y_(rays_y), steps_(steps),
        focal_length_(focal_length) {}

  // Writes position, size and centre of the box, three numbers each; false: too few pixels.
  bool measure(uint8_t label, const Box& box, double* result) {
    if (!box.area) return false;
    const int64_t step =
        static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(box.area) / rules_.samples)));
    if (measure_each(step, label, box, result)) return true;
    // Sparse depth: the pixels that are known may lie between those that were looked at.
    return step > 1 && knows_enough(label, box) && measure_each(1, label, box, result);
  }

 private:
  // With each second, third... row and column, as step says.
  bool measure_each(int64_t step, uint8_t label, const Box& box, double* result) {
    sample(step, label, box);
    drop_fragments();
    keep_main_range();
    return describe(result);
  }

  bool knows_enough(uint8_t label, const Box& box) const {
    int64_t count = 0;
    for (int64_t y = box.top; y <= box.bottom; ++y) {
      for (int64_t n = y * image_.width + box.left; n <= y * image_.width + box.right; ++n) {
        count += image_.labels[n] == label && is_known(image_.depth[n]);
      }
    }
    return count >= rules_.least_pixels;
  }

  void sample(int64_t step, uint8_t label, const Box& box) {
    const int64_t top = std::max<int64_t>(box.top - 1, 0), left = std::max<int64_t>(box.left - 1, 0);
    const int64_t bottom = std::min(box.bottom + 2, image_.height);
    const int64_t right = std::min(box.right + 2, image_.width);
    height_ = (bottom - top + step - 1) / step;
    width_ = (right - left + step - 1) / step;
    allowed_ = static_cast<float>(2 * rules_.steepest / (focal_length_ / step));
    mask_.resize(height_ * width_);
    depth_.resize(mask_.size());
    x_.resize(mask_.size());
    y_.resize(mask_.size());
    for (int64_t i = 0; i < height_; ++i) {
      const int64_t y = top + i * step;
      for (int64_t j = 0; j < width_; ++j) {
        const int64_t x = left + j * step, n = i * width_ + j;
        x_[n] = rays_x_[y * steps_[0] + x * steps_[1]];
        y_[n] = rays_y_[y * steps_[2] + x * steps_[3]];
        depth_[n] = image_.depth[y * image_.width + x];
        mask_[n] = image_.labels[y * image_.width + x] == label && std::isfinite(x_[n]) &&
                   std::isfinite(y_[n]);
      }
    }
  }

  // Of the parts that hang together, by corners too, only the larger ones stay in the mask.
  void drop_fragments() {
    runs_.clear();
    size_t above = 0, above_end = 0;  // the runs of the row above
    for (int64_t y = 0; y < height_; ++y) {
      const size_t first = runs_.size();
      const uint8_t* row = mask_.data() + y * width_;
      for (int64_t x = 0; x < width_; ++x) {
        if (!row[x]) continue;
        Run run{y * width_ + x, 0, static_cast<int64_t>(runs_.size()), 0};
        while (x < width_ && row[x]) ++x;
        run.end = y * width_ + x;
        runs_.push_back(run);
        // Those above that touch it: one may touch the next run, too.
        while (above < above_end && runs_[above].end + width_ < run.begin) ++above;
        for (size_t i = above; i < above_end && runs_[i].begin + width_ <= run.end; ++i) {
          const int64_t one = root(i), other = root(runs_.size() - 1);
          runs_[std::max(one, other)].part = std::min(one, other);
        }
      }
      above = first;
      above_end = runs_.size();
    }
    int64_t largest = 0, parts = 0;
    for (size_t i = 0; i < runs_.size(); ++i) {
      Run& part = runs_[root(i)];
      parts += part.area == 0;
      part.area += runs_[i].end - runs_[i].begin;
      largest = std::max(largest, part.area);
    }
    if (parts < 2) return;
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[root(i)].area >= rules_.fragment * largest) continue;
      std::fill(mask_.begin() + runs_[i].begin, mask_.begin() + runs_[i].end, uint8_t{0});
    }
  }

  int64_t root(int64_t run) {
    while (runs_[run].part != run) run = runs_[run].part = runs_[runs_[run].part].part;
    return run;
  }

  static bool is_known(float depth) {
    return depth > 0 && depth < std::numeric_limits<float>::infinity();
  }

  bool known(int64_t n) const { return is_known(depth_[n]); }

  // Whether depth changes more around a pixel than on any surface that a camera can see.
  bool jumps(int64_t n) const {
    const int64_t y = n / width_, x = n % width_;
    float nearest = 1e9f, farthest = 0;
    for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, height_ - 1); ++v) {
      for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, width_ - 1); ++u) {
        const int64_t other = v * width_ + u;
        if (!known(other)) continue;
        nearest = std::min(nearest, depth_[other]);
        farthest = std::max(farthest, depth_[other]);
      }
    }
    return farthest - nearest > std::max(static_cast<float>(rules_.least_jump), nearest * allowed_);
  }

  // Leaves the pixels whose depth is known and in the object's own range of depth.
  void keep_main_range() {
    pixels_.clear();
    sure_.clear();
    for (int64_t n = 0; n < height_ * width_; ++n) {
      if (!mask_[n] || !known(n)) continue;
      pixels_.push_back(n);
      if (!jumps(n)) sure_.push_back(depth_[n]);
    }
    if (sure_.size() < rules_.least_pixels) {
      sure_.clear();
      for (const int64_t n : pixels_) sure_.push_back(depth_[n]);
    }
    if (sure_.size() < rules_.least_pixels) return;
    float near, far;
    find_range(near, far);
    const auto outside = [&](int64_t n) { return !(depth_[n] >= near && depth_[n] <= far); };
    pixels_.erase(std::remove_if(pixels_.begin(), pixels_.end(), outside), pixels_.end());
  }

  // The range, without a gap in it, that holds most depths; or one before it that holds half as many.
  void find_range(float& near, float& far) {
    const auto middle = sure_.begin() + sure_.size() / 2;
    std::nth_element(sure_.begin(), middle, sure_.end());
    float median = *middle;
    if (sure_.size() % 2 == 0) median = (median + *std::max_element(sure_.begin(), middle)) / 2;
    const double low = *std::min_element(sure_.begin(), sure_.end());
    const double width = std::max(rules_.bin * median, rules_.least_bin);
    const float start = static_cast<float>(low), step = static_cast<float>(width);
    const float last = static_cast<float>(rules_.most_bins);
    counts_.clear();
    for (const float z : sure_) {
      const size_t bin = static_cast<size_t>(std::min((z - start) / step, last));
      if (bin >= counts_.size()) counts_.resize(bin + 1, 0);
      ++counts_[bin];
    }
    const double fullest = *std::max_element(counts_.begin(), counts_.end());
    const double least = std::max(1.0, rules_.thin * fullest);
    struct Range {
      double sum;
      int64_t first, last;
    };
    std::vector<Range> ranges;
    bool open = false;
    for (int64_t i = 0; i < static_cast<int64_t>(counts_.size()); ++i) {
      if (counts_[i] < least) {
        open = false;
        continue;
      }
      if (!open) ranges.push_back({0, i, i});
      open = true;
      ranges.back().sum += counts_[i];
      ranges.back().last = i;
    }
    double most = 0;
    for (const Range& range : ranges) most = std::max(most, range.sum);
    const Range* chosen = ranges.data();
    while (chosen->sum < 0.5 * most) ++chosen;
    // The range's own ends are thin, too.
    near = static_cast<float>(low + static_cast<double>(chosen->first - 1) * width);
    far = static_cast<float>(low + static_cast<double>(chosen->last + 2) * width);
  }

  bool describe(double* result) {
    const int64_t count = static_cast<int64_t>(pixels_.size());
    if (count < rules_.least_pixels) return false;
    const int64_t trimmed = static_cast<int64_t>(std::nearbyint(rules_.trim * count));
    for (int axis = 0; axis < 3; ++axis) {
      axis_.clear();
      double sum = 0;
      for (const int64_t n : pixels_) {
        const double z = depth_[n];
        const double ray = axis == 0 ? x_[n] : axis == 1 ? y_[n] : 1.0;
        axis_.push_back(z * ray);
        sum += axis_.back();
      }
      const auto begin = axis_.begin() + trimmed, last = axis_.end() - 1 - trimmed;
      std::nth_element(axis_.begin(), begin, axis_.end());
      const double low = *begin;
      std::nth_element(begin, last, axis_.end());
      const double high = *last;
      result[axis] = sum / static_cast<double>(count);
      result[3 + axis] = high - low;
      result[6 + axis] = (low + high) / 2;
    }
    return true;
  }

  const Rules& rules_;
  const Image& image_;
  const Ray* rays_x_;
  const Ray* rays_y_;
  const int64_t* steps_;
  const double focal_length_;
  int64_t height_ = 0, width_ = 0;
  float allowed_ = 0;  // change of depth between neighbours, per metre of distance
  std::vector<uint8_t> mask_;
  std::vector<float> depth_, sure_;
  std::vector<Ray> x_, y_;
  std::vector<Run> runs_;
  std::vector<int64_t> pixels_, counts_;
  std::vector<double> axis_;
};

template <typename Ray>
void measure(const Rules& rules, const Image& image, const Ray* rays_x, const Ray* rays_y,
             const int64_t* steps, double focal_length, const uint8_t* wanted, int64_t count,
             double* results, uint8_t* found, int threads) {
  const std::vector<Box> boxes = find_boxes(image);
#pragma omp parallel num_threads(threads) if (count > 1)
  {
    Surface<Ray> surface(rules, image, rays_x, rays_y, steps, focal_length);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) {
      found[i] = surface.measure(wanted[i], boxes[wanted[i]], results + 9 * i);
    }
  }
}

}  // namespace

extern "C" {

// labels and depth are height x width. Rays (of doubles, or else floats) are the points at distance 1
// that pixels show; steps: how many numbers lie between two rows and two columns of rays_x, then of
// rays_y; 0 where all have the same. results: 9 numbers for each wanted label whose found is 1.
// Threads share the wanted labels.
void measure_surfaces(const double* rules, const uint8_t* labels, const float* depth, int64_t height,
                      int64_t width, const void* rays_x, const void* rays_y, int doubles,
                      const int64_t* steps, double focal_length, const uint8_t* wanted, int64_t count,
                      double* results, uint8_t* found, int threads) {
  const Rules& named = *reinterpret_cast<const Rules*>(rules);
  const Image image{labels, depth, height, width};
  if (doubles) {
    measure(named, image, static_cast<const double*>(rays_x), static_cast<const double*>(rays_y),
            steps, focal_length, wanted, count, results, found, threads);
  } else {
    measure(named, image, static_cast<const float*>(rays_x), static_cast<const float*>(rays_y), steps,
            focal_length, wanted, count, results, found, threads);
  }
}

}  // extern "C"
