// Where the visible surfaces of objects are, from labels and depth: what perception/depth.py says in
// array operations, here in a few passes over each object's pixels. Both give the same, but for
// rounding.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// As in perception/depth.py, which hands them over.
struct Rules {
  double farthest, least_pixels, samples, fragment, least_jump, steepest;
  double bin, least_bin, thin, most_bins, trim;
};

struct Image {
  const uint8_t* labels;
  const float* depth;
  int64_t height, width;
};

struct Box {
  int64_t left = std::numeric_limits<int64_t>::max(), top = left, right = -1, bottom = -1, area = 0;
};

// Pixels of a mask side by side, from begin to before end, counted through the image.
struct Run {
  int64_t y, begin, end;
  int64_t part;  // a run of the same part; the part's first one names itself
  int64_t area;  // of the part, at its first run
};

// A pixel that is looked at.
struct Sample {
  int32_t y, x;  // in the image
  int32_t n;     // among the samples
  float depth;
};

// Neighbours among the samples, bins apart, on a surface that is seen at a low angle.
struct Slope {
  int32_t lower, higher;  // bins
  float rise;             // m
};

using Point = std::array<double, 3>;

constexpr int64_t kMargin = 2;  // more samples around the others, none of them sure
constexpr size_t kGuessed = 256;  // points from which the ends of an object are guessed
constexpr double kBeyond = 0.016;  // share of them at either end of an axis
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

// An object's pixels. Each second, third... row and column of a large one tells its range of depth.
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
    // One more on each side shows whether depth jumps at the mask's edge.
    top_ = std::max<int64_t>(box.top - 1, 0);
    left_ = std::max<int64_t>(box.left - 1, 0);
    bottom_ = std::min(box.bottom + 2, image_.height);
    right_ = std::min(box.right + 2, image_.width);
    find_runs(label, box);
    drop_fragments();
    double area = 0;
    for (const Run& run : runs_) area += static_cast<double>(run.end - run.begin);
    const int64_t step = static_cast<int64_t>(std::ceil(std::sqrt(area / rules_.samples)));
    if (!step) return false;
    if (find_range(step) && describe(result)) return true;
    // Sparse depth: the pixels that are known may lie between those that were looked at.
    return step > 1 && find_range(1) && describe(result);
  }

 private:
  bool is_known(float depth) const { return depth > 0 && depth <= rules_.farthest; }

  Ray ray_x(int64_t y, int64_t x) const { return rays_x_[y * steps_[0] + x * steps_[1]]; }
  Ray ray_y(int64_t y, int64_t x) const { return rays_y_[y * steps_[2] + x * steps_[3]]; }

  // The mask, but for pixels that the model of the lens does not reach.
  void find_runs(uint8_t label, const Box& box) {
    runs_.clear();
    const bool reaches = steps_[0] == 0 && steps_[3] == 0;  // no model: every pixel has a ray
    for (int64_t y = box.top; y <= box.bottom; ++y) {
      const uint8_t* row = image_.labels + y * image_.width;
      const auto inside = [&](int64_t x) {
        return row[x] == label &&
               (reaches || (std::isfinite(ray_x(y, x)) && std::isfinite(ray_y(y, x))));
      };
      for (int64_t x = box.left, begin; x <= box.right;) {
        if (!inside(x)) {
          ++x;
          continue;
        }
        begin = x;
        if (reaches) {
          while (x + 8 <= image_.width && eight(row + x) == label * kOnes) x += 8;
        }
        while (x <= box.right && inside(x)) ++x;
        const int64_t start = y * image_.width;
        runs_.push_back({y, start + begin, start + x, static_cast<int64_t>(runs_.size()), 0});
      }
    }
  }

  // Of the parts that hang together, by corners too, only the larger ones stay in the mask.
  void drop_fragments() {
    size_t above = 0, first = 0;  // a run that may touch this one from above; the row's first
    int64_t y = -1;
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i].y != y) {
        above = runs_[i].y == y + 1 ? first : i;
        first = i;
        y = runs_[i].y;
      }
      // Those above that touch it: one may touch the next run, too.
      while (above < first && runs_[above].end + image_.width < runs_[i].begin) ++above;
      for (size_t j = above; j < first && runs_[j].begin + image_.width <= runs_[i].end; ++j) {
        const int64_t one = root(j), other = root(i);
        runs_[std::max(one, other)].part = std::min(one, other);
      }
    }
    int64_t largest = 0, parts = 0;
    for (size_t i = 0; i < runs_.size(); ++i) {
      Run& part = runs_[root(i)];
      parts += part.area == 0;
      part.area += runs_[i].end - runs_[i].begin;
      largest = std::max(largest, part.area);
    }
    if (parts < 2) return;
    kept_.clear();
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[root(i)].area >= rules_.fragment * largest) kept_.push_back(runs_[i]);
    }
    runs_.swap(kept_);
  }

  int64_t root(int64_t run) {
    while (runs_[run].part != run) run = runs_[run].part = runs_[runs_[run].part].part;
    return run;
  }

  // Of the object's surface, near_ to far_, from each second, third... row and column, as step says;
  // false: too few pixels of these are known.
  bool find_range(int64_t step) {
    step_ = step;
    width_ = (right_ - left_ + step - 1) / step + kMargin;
    height_ = (bottom_ - top_ + step - 1) / step + 2 * kMargin;
    inside_.clear();
    for (const Run& run : runs_) {
      if ((run.y - top_) % step) continue;
      const int64_t start = run.y * image_.width, row = ((run.y - top_) / step + kMargin) * width_;
      const int64_t first = (run.begin - start - left_ + step - 1) / step;
      for (int64_t j = first, x = left_ + j * step; start + x < run.end; ++j, x += step) {
        const float depth = image_.depth[start + x];
        if (!is_known(depth)) continue;
        inside_.push_back({static_cast<int32_t>(run.y), static_cast<int32_t>(x),
                           static_cast<int32_t>(row + j), depth});
      }
    }
    if (inside_.size() < rules_.least_pixels) return false;
    sure_.clear();
    for (const Sample& sample : inside_) {
      // Between pixels far apart depth may jump that does not beside them; between pixels side by
      // side noise may look steep.
      if (!jumps(sample, step) || (step > 1 && !jumps(sample, 1))) sure_.push_back(sample);
    }
    if (sure_.size() < rules_.least_pixels) sure_ = inside_;
    choose_range(allowed(step) / 2);
    return true;
  }

  // Change of depth, per metre of distance, over twice so many pixels of a surface that a camera sees.
  float allowed(int64_t pixels) const {
    return static_cast<float>(2 * rules_.steepest / (focal_length_ / static_cast<double>(pixels)));
  }

  bool is_jump(float nearest, float farthest, float slope) const {
    return farthest - nearest > std::max(static_cast<float>(rules_.least_jump), nearest * slope);
  }

  // Whether depth changes more around a pixel than on any surface that a camera can see.
  bool jumps(const Sample& sample, int64_t step) const {
    const int64_t y = sample.y, x = sample.x;
    const int64_t rows[] = {y - step < top_ ? y : y - step, y, y + step < bottom_ ? y + step : y};
    const int64_t columns[] = {x - step < left_ ? x : x - step, x, x + step < right_ ? x + step : x};
    float nearest = 1e9f, farthest = 0;
    for (const int64_t v : rows) {
      for (const int64_t u : columns) {
        const float depth = image_.depth[v * image_.width + u];
        nearest = std::min(nearest, is_known(depth) ? depth : 1e9f);
        farthest = std::max(farthest, is_known(depth) ? depth : 0.0f);
      }
    }
    return is_jump(nearest, farthest, allowed(step));
  }

  // The range, without a gap in it, that holds most depths; or one before it that holds half as many.
  void choose_range(float slope) {
    values_.clear();
    for (const Sample& sample : sure_) values_.push_back(sample.depth);
    const auto middle = values_.begin() + values_.size() / 2;
    std::nth_element(values_.begin(), middle, values_.end());
    float median = *middle;
    if (values_.size() % 2 == 0) median = (median + *std::max_element(values_.begin(), middle)) / 2;
    const double low = *std::min_element(values_.begin(), values_.end());
    const double width = std::max(rules_.bin * median, rules_.least_bin);
    const float start = static_cast<float>(low), size = static_cast<float>(width);
    const float last = static_cast<float>(rules_.most_bins);
    bins_.assign(height_ * width_, -1);
    depth_.resize(bins_.size());
    counts_.clear();
    for (const Sample& sample : sure_) {
      const int32_t bin = static_cast<int32_t>(std::min((sample.depth - start) / size, last));
      if (bin >= static_cast<int64_t>(counts_.size())) counts_.resize(bin + 1, 0);
      ++counts_[bin];
      bins_[sample.n] = bin;
      depth_[sample.n] = sample.depth;
    }
    find_slopes(slope);
    const double fullest = *std::max_element(counts_.begin(), counts_.end());
    const double least = std::max(1.0, rules_.thin * fullest);
    struct Range {
      double sum;
      int64_t first, last;
    };
    std::vector<Range> ranges;
    bool open = false;
    int64_t passing = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(counts_.size()); ++i) {
      passing += between_[i];
      if (counts_[i] + passing < least) {
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
    // The range's own ends are thin, too; and the next row may be as far away as the one before.
    double before = 0, after = 0, nearest = 0, farthest = 0;
    for (const Slope& each : slopes_) {
      if (each.lower == chosen->first) before += each.rise, ++nearest;
      if (each.higher == chosen->last) after += each.rise, ++farthest;
    }
    before = std::max(width, before / std::max(1.0, nearest));
    after = std::max(width, after / std::max(1.0, farthest));
    near_ = static_cast<float>(low + static_cast<double>(chosen->first) * width - before);
    near_ = std::max(near_, std::numeric_limits<float>::min());  // unknown depth is no distance
    far_ = static_cast<float>(low + static_cast<double>(chosen->last + 1) * width + after);
    far_ = std::min(far_, static_cast<float>(rules_.farthest));
  }

  // On a surface that is seen at a low angle neighbours are bins apart: that is no gap. There depth
  // goes on changing, which it does not beside an edge.
  void find_slopes(float slope) {
    slopes_.clear();
    between_.assign(counts_.size() + 1, 0);
    for (const Sample& sample : sure_) {
      add_slope(sample.n, 1, slope);
      add_slope(sample.n, width_, slope);
    }
  }

  void add_slope(int64_t n, int64_t stride, float slope) {
    const int32_t one = bins_[n], other = bins_[n + stride];
    if (other == -1 || std::abs(one - other) < 2) return;
    const float change = rise(n, stride, slope);
    const auto goes_on = [&](int64_t steps) {
      const float there = rise(n + steps * stride, stride, slope);
      return (change < 0 ? -there : there) >= std::abs(change) / 2;
    };
    if (change == 0 || !(goes_on(-1) ? goes_on(-2) || goes_on(1) : goes_on(1) && goes_on(2))) return;
    slopes_.push_back({std::min(one, other), std::max(one, other), std::abs(change)});
    ++between_[std::min(one, other) + 1];
    --between_[std::max(one, other)];
  }

  // From a sample to a neighbour; 0 if depth jumps, or where one of them is not sure.
  float rise(int64_t n, int64_t stride, float slope) const {
    if (bins_[n] == -1 || bins_[n + stride] == -1) return 0;
    const float one = depth_[n], other = depth_[n + stride];
    return is_jump(std::min(one, other), std::max(one, other), slope) ? 0 : other - one;
  }

  // From all of the mask's pixels in the range.
  bool describe(double* result) {
    guess_ends();
    size_t trimmed = collect_ends();
    if (count_ < rules_.least_pixels) return false;
    const auto too_short = [&](const std::vector<double>& end) { return end.size() <= trimmed; };
    if (std::any_of(lower_.begin(), lower_.end(), too_short) ||
        std::any_of(upper_.begin(), upper_.end(), too_short)) {
      lower_limit_.fill(std::numeric_limits<double>::infinity());
      upper_limit_.fill(-std::numeric_limits<double>::infinity());
      trimmed = collect_ends();
    }
    for (int axis = 0; axis < 3; ++axis) {
      std::vector<double>&lower = lower_[axis], &upper = upper_[axis];
      std::nth_element(lower.begin(), lower.begin() + trimmed, lower.end());
      std::nth_element(upper.begin(), upper.end() - 1 - trimmed, upper.end());
      const double low = lower[trimmed], high = upper[upper.size() - 1 - trimmed];
      result[axis] = sum_[axis] / static_cast<double>(count_);
      result[3 + axis] = high - low;
      result[6 + axis] = (low + high) / 2;
    }
    return true;
  }

  // Few points lie beyond these limits, but more than are trimmed: to sort all would take longer.
  void guess_ends() {
    for (auto& end : lower_) end.clear();
    const size_t each = std::max<size_t>(inside_.size() / kGuessed, 1);
    for (size_t i = 0; i < inside_.size(); i += each) {
      const Sample& sample = inside_[i];
      if (!in_range(sample.depth)) continue;
      const double z = sample.depth;
      lower_[0].push_back(z * ray_x(sample.y, sample.x));
      lower_[1].push_back(z * ray_y(sample.y, sample.x));
      lower_[2].push_back(z);
    }
    const size_t rank = static_cast<size_t>(kBeyond * static_cast<double>(lower_[0].size()));
    for (int axis = 0; axis < 3 && !lower_[0].empty(); ++axis) {
      const auto begin = lower_[axis].begin(), end = lower_[axis].end(), last = end - 1 - rank;
      std::nth_element(begin, begin + rank, end);
      lower_limit_[axis] = begin[rank];
      std::nth_element(begin + rank, last, end);
      upper_limit_[axis] = *last;
    }
  }

  // How many points do not count at either end of an axis; sets count_, sum_, lower_ and upper_.
  size_t collect_ends() {
    count_ = 0;
    sum_.fill(0);
    for (auto& end : lower_) end.clear();
    for (auto& end : upper_) end.clear();
    for (const Run& run : runs_) {
      const int64_t x = run.begin - run.y * image_.width, length = run.end - run.begin;
      if (static_cast<int64_t>(beyond_.size()) < length + 8) beyond_.resize(length + 8);
      const float* depth = image_.depth + run.begin;
      const Ray* rays_x = rays_x_ + run.y * steps_[0] + x * steps_[1];
      const Ray* rays_y = rays_y_ + run.y * steps_[2] + x * steps_[3];
      if (steps_[1] == 1 && steps_[3] == 0) {  // no model of a lens: vectors of pixels
        scan(depth, length, [=](int64_t i) { return rays_x[i]; }, [=](int64_t) { return *rays_y; });
      } else {
        const int64_t along_x = steps_[1], along_y = steps_[3];
        scan(depth, length, [=](int64_t i) { return rays_x[i * along_x]; },
             [=](int64_t i) { return rays_y[i * along_y]; });
      }
      std::memset(beyond_.data() + length, 0, 8);
      for (int64_t i = 0; i < length; ++i) {
        if (!eight(beyond_.data() + i)) {
          i += 7;
          continue;
        }
        if (!beyond_[i]) continue;
        const double z = image_.depth[run.begin + i];
        const Point point{z * ray_x(run.y, x + i), z * ray_y(run.y, x + i), z};
        for (int axis = 0; axis < 3; ++axis) {
          if (point[axis] <= lower_limit_[axis]) lower_[axis].push_back(point[axis]);
          if (point[axis] >= upper_limit_[axis]) upper_[axis].push_back(point[axis]);
        }
      }
    }
    return static_cast<size_t>(std::nearbyint(rules_.trim * static_cast<double>(count_)));
  }

  // Adds a run's points to count_ and sum_ and says in beyond_ which of them are beyond a limit.
  template <typename RayX, typename RayY>
  void scan(const float* depth, int64_t length, RayX ray_x, RayY ray_y) {
    const float near = near_, far = far_;
    const Point low = lower_limit_, high = upper_limit_;
    uint8_t* beyond = beyond_.data();
    double count = 0, sum_x = 0, sum_y = 0, sum_z = 0;
#pragma omp simd reduction(+ : count, sum_x, sum_y, sum_z)
    for (int64_t i = 0; i < length; ++i) {
      const bool inside = (depth[i] >= near) & (depth[i] <= far);
      const double z = inside ? depth[i] : 0.0f;
      const double x = z * ray_x(i), y = z * ray_y(i);
      count += inside;
      sum_x += x;
      sum_y += y;
      sum_z += z;
      beyond[i] = inside & ((x <= low[0]) | (x >= high[0]) | (y <= low[1]) | (y >= high[1]) |
                            (z <= low[2]) | (z >= high[2]));
    }
    count_ += static_cast<int64_t>(count);
    sum_[0] += sum_x;
    sum_[1] += sum_y;
    sum_[2] += sum_z;
  }

  bool in_range(float depth) const { return depth >= near_ && depth <= far_; }

  const Rules& rules_;
  const Image& image_;
  const Ray* rays_x_;
  const Ray* rays_y_;
  const int64_t* steps_;
  const double focal_length_;
  int64_t top_ = 0, left_ = 0, bottom_ = 0, right_ = 0;  // the mask and a pixel on each side
  int64_t step_ = 1, height_ = 0, width_ = 0;            // of the samples
  float near_ = 0, far_ = 0;
  std::vector<Run> runs_, kept_;
  std::vector<Sample> inside_, sure_;  // of known depth, and beside no jump
  std::vector<int32_t> bins_;          // of the samples' depth, -1 where not sure
  std::vector<float> depth_, values_;
  std::vector<int64_t> counts_, between_;
  std::vector<Slope> slopes_;
  Point sum_{}, lower_limit_{}, upper_limit_{};
  int64_t count_ = 0;
  std::vector<uint8_t> beyond_;
  std::array<std::vector<double>, 3> lower_, upper_;  // points at the ends of each axis
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
