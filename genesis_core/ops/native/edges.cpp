// Soft masks on a coarse grid take the edges of the image that they were found in: a guided filter.
// Masks are K x h x w, the image 3 planes of H x W, all row by row; threads share the slots.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "interpolation.h"

namespace {

constexpr int kColours = 3;
constexpr int64_t kRadius = 2;  // of a window, in pixels of the grid
constexpr float kVariance = 1e-4f;  // of a colour; see edges.py
constexpr float kNothing = 1.0f / 32;  // where a mask ends; see edges.py
constexpr float kEnough = 3.0f;  // colours that explain a third count in full; see edges.py
constexpr float kSteady = 1e-5f;  // a mask's variance in a window that needs no explanation

// A part of the grid with a frame of zeros, so that sums at its border need no care.
class Plane {
 public:
  Plane(int64_t height, int64_t width)
      : stride_(width + 2 * kRadius), values_((height + 2 * kRadius) * stride_) {}

  float* row(int64_t y) { return values_.data() + (y + kRadius) * stride_ + kRadius; }

 private:
  int64_t stride_;
  std::vector<float> values_;
};

// One over how many of a window's rows (or columns) lie in the grid.
std::vector<float> shares(int64_t length) {
  std::vector<float> result(length);
  for (int64_t i = 0; i < length; ++i) {
    const int64_t first = std::max<int64_t>(0, i - kRadius);
    const int64_t last = std::min(length - 1, i + kRadius);
    result[i] = 1.0f / static_cast<float>(last - first + 1);
  }
  return result;
}

// Means over windows. It works in place, too.
class Box {
 public:
  Box(int64_t height, int64_t width) : height_(height), width_(width), across_(height, width) {}

  // down, across: shares() of the rows and columns.
  void mean(Plane& from, Plane& to, const float* down, const float* across) {
    for (int64_t y = 0; y < height_; ++y) {
      const float* __restrict in = from.row(y);
      float* __restrict out = across_.row(y);
      for (int64_t x = 0; x < width_; ++x) {
        float sum = 0;
        for (int64_t k = -kRadius; k <= kRadius; ++k) sum += in[x + k];
        out[x] = sum * across[x];
      }
    }
    for (int64_t y = 0; y < height_; ++y) {
      const float* rows[2 * kRadius + 1];
      for (int64_t k = 0; k <= 2 * kRadius; ++k) rows[k] = across_.row(y + k - kRadius);
      float* __restrict out = to.row(y);
      for (int64_t x = 0; x < width_; ++x) {
        float sum = 0;
        for (int64_t k = 0; k <= 2 * kRadius; ++k) sum += rows[k][x];
        out[x] = sum * down[y];
      }
    }
  }

 private:
  int64_t height_, width_;
  Plane across_;
};

// The image on the grid: its mean over each window, and the inverse of its covariance there.
struct Guide {
  Guide(const float* image, int64_t height, int64_t width)
      : down(shares(height)), across(shares(width)) {
    Box box(height, width);
    for (int c = 0; c < kColours; ++c) {
      colours.emplace_back(height, width);
      means.emplace_back(height, width);
      for (int64_t y = 0; y < height; ++y) {
        const float* from = image + (c * height + y) * width;
        std::copy(from, from + width, colours[c].row(y));
      }
      box.mean(colours[c], means[c], down.data(), across.data());
    }
    for (int a = 0; a < kColours; ++a) {
      for (int b = a; b < kColours; ++b) {
        Plane product(height, width);
        for (int64_t y = 0; y < height; ++y) {
          const float *one = colours[a].row(y), *other = colours[b].row(y);
          float* to = product.row(y);
          for (int64_t x = 0; x < width; ++x) to[x] = one[x] * other[x];
        }
        box.mean(product, product, down.data(), across.data());
        for (int64_t y = 0; y < height; ++y) {
          const float *one = means[a].row(y), *other = means[b].row(y);
          float* to = product.row(y);
          for (int64_t x = 0; x < width; ++x) {
            to[x] += (a == b ? kVariance : 0.0f) - one[x] * other[x];
          }
        }
        inverse.push_back(std::move(product));
      }
    }
    for (int64_t y = 0; y < height; ++y) {
      float *rr = inverse[0].row(y), *rg = inverse[1].row(y), *rb = inverse[2].row(y);
      float *gg = inverse[3].row(y), *gb = inverse[4].row(y), *bb = inverse[5].row(y);
      for (int64_t x = 0; x < width; ++x) {
        // In double: of grey colours these are small differences of large numbers.
        const double r2 = rr[x], g2 = gg[x], b2 = bb[x], r_g = rg[x], r_b = rb[x], g_b = gb[x];
        const double a = g2 * b2 - g_b * g_b;
        const double b = r_b * g_b - r_g * b2;
        const double c = r_g * g_b - r_b * g2;
        const double scale = 1.0 / (r2 * a + r_g * b + r_b * c);
        rr[x] = static_cast<float>(a * scale);
        rg[x] = static_cast<float>(b * scale);
        rb[x] = static_cast<float>(c * scale);
        gg[x] = static_cast<float>((r2 * b2 - r_b * r_b) * scale);
        gb[x] = static_cast<float>((r_g * r_b - r2 * g_b) * scale);
        bb[x] = static_cast<float>((r2 * g2 - r_g * r_g) * scale);
      }
    }
  }

  std::vector<float> down, across;
  std::vector<Plane> colours, means;
  std::vector<Plane> inverse;  // rr, rg, rb, gg, gb, bb
};

// From `begin` to `end`, a side of the part of the grid where a mask is not nothing.
struct Range {
  int64_t begin, end;

  void grow(int64_t by, int64_t length) {
    begin = std::max<int64_t>(0, begin - by);
    end = std::min(length, end + by);
  }
  int64_t length() const { return end - begin; }
};

// The part of the grid where a mask is not nothing.
struct Part {
  Range rows, columns;
  double sum = 0;  // of the whole mask

  bool empty() const { return rows.end <= rows.begin; }
};

Part part_of(const float* mask, int64_t height, int64_t width) {
  Range rows{height, 0}, columns{width, 0};
  double sum = 0;
  for (int64_t y = 0; y < height; ++y, mask += width) {
    for (int64_t x = 0; x < width; ++x) sum += mask[x];
    int64_t left = 0, right = width;
    while (left < width && mask[left] <= kNothing) ++left;
    while (right > left && mask[right - 1] <= kNothing) --right;
    if (left == right) continue;
    rows.begin = std::min(rows.begin, y);
    rows.end = y + 1;
    columns.begin = std::min(columns.begin, left);
    columns.end = std::max(columns.end, right);
  }
  return {rows, columns, sum};
}

// The masks of one image.
class Filter {
 public:
  Filter(const float* small, const float* image, int64_t height, int64_t width,
         int64_t full_height, int64_t full_width)
      : guide_(small, height, width),
        down_(height, full_height),
        across_(width, full_width),
        image_(image),
        height_(height),
        width_(width),
        full_height_(full_height),
        full_width_(full_width) {}

  // In each window a mask is a linear function of the colours, as far as they explain it; a pixel
  // takes its windows' mean.
  // Returns where in the image it may be more than zero.
  Part follow(const float* mask, const Part& own, float* to) {
    std::fill(to, to + full_height_ * full_width_, 0.0f);
    if (own.empty()) return {{0, 0}, {0, 0}};
    // As far as it reaches, and a frame of zeros for what lies between this part and the rest.
    Part part = own;
    part.rows.grow(2 * kRadius + 1, height_);
    part.columns.grow(2 * kRadius + 1, width_);
    const int64_t h = part.rows.length(), w = part.columns.length();
    const float* down = guide_.down.data() + part.rows.begin;
    const float* across = guide_.across.data() + part.columns.begin;

    Box box(h, w);
    Plane values(h, w), mean(h, w), squares(h, w);
    for (int64_t y = own.rows.begin; y < own.rows.end; ++y) {
      const float* from = mask + y * width_;
      std::copy(from + own.columns.begin, from + own.columns.end,
                values.row(y - part.rows.begin) + own.columns.begin - part.columns.begin);
    }
    // Red, green, blue; and last what is added.
    std::vector<Plane> terms(kColours, Plane(h, w));
    for (int64_t y = 0; y < h; ++y) {
      const float* value = values.row(y);
      for (int c = 0; c < kColours; ++c) {
        const float* colour = of_grid(guide_.colours[c], part, y);
        float* product = terms[c].row(y);
        for (int64_t x = 0; x < w; ++x) product[x] = colour[x] * value[x];
      }
      float* square = squares.row(y);
      for (int64_t x = 0; x < w; ++x) square[x] = value[x] * value[x];
    }
    for (Plane& term : terms) box.mean(term, term, down, across);
    box.mean(squares, squares, down, across);
    box.mean(values, mean, down, across);
    terms.push_back(std::move(mean));
    Plane& explained = squares;
    for (int64_t y = 0; y < h; ++y) solve(part, y, terms, explained);
    for (Plane& term : terms) box.mean(term, term, down, across);
    box.mean(explained, explained, down, across);
    for (int64_t y = 0; y < h; ++y) {  // the rest of the mask stays as it is
      const float *share = explained.row(y), *value = values.row(y);
      float* rest = terms[kColours].row(y);
      for (int64_t x = 0; x < w; ++x) rest[x] += (1.0f - share[x]) * value[x];
    }
    return apply(part, terms, to);
  }

 private:
  static const float* of_grid(Plane& plane, const Part& part, int64_t y) {
    return plane.row(y + part.rows.begin) + part.columns.begin;
  }

  // In a row: from the means of colour times mask, of the mask, and of its square to the function's
  // terms, and how far the colours count.
  void solve(const Part& part, int64_t y, std::vector<Plane>& terms, Plane& squares) {
    const float *means[kColours], *inverse[6];
    for (int c = 0; c < kColours; ++c) means[c] = of_grid(guide_.means[c], part, y);
    for (int i = 0; i < 6; ++i) inverse[i] = of_grid(guide_.inverse[i], part, y);
    float *r = terms[0].row(y), *g = terms[1].row(y), *b = terms[2].row(y);
    float *rest = terms[kColours].row(y), *square = squares.row(y);
    for (int64_t x = 0; x < part.columns.length(); ++x) {
      const float variance = square[x] - rest[x] * rest[x] + kSteady;
      const float cr = r[x] - means[0][x] * rest[x];
      const float cg = g[x] - means[1][x] * rest[x];
      const float cb = b[x] - means[2][x] * rest[x];
      const float sr = inverse[0][x] * cr + inverse[1][x] * cg + inverse[2][x] * cb;
      const float sg = inverse[1][x] * cr + inverse[3][x] * cg + inverse[4][x] * cb;
      const float sb = inverse[2][x] * cr + inverse[4][x] * cg + inverse[5][x] * cb;
      const float ratio = (sr * cr + sg * cg + sb * cb) / std::max(variance, kSteady);
      const float share = std::min(std::max(kEnough * ratio, 0.0f), 1.0f);
      rest[x] = share * (rest[x] - means[0][x] * sr - means[1][x] * sg - means[2][x] * sb);
      r[x] = share * sr;
      g[x] = share * sg;
      b[x] = share * sb;
      square[x] = share;
    }
  }

  // The function's terms, enlarged, with the image's own colours.
  Part apply(const Part& part, std::vector<Plane>& terms, float* to) const {
    const int64_t h = part.rows.length(), w = part.columns.length();
    const int64_t top = first_target(down_.second, part.rows.begin);
    const int64_t bottom = first_target(down_.first, part.rows.end);
    const int64_t left = doubles() ? 2 * part.columns.begin
                                   : first_target(across_.second, part.columns.begin);
    const int64_t right = doubles() ? 2 * part.columns.end
                                    : first_target(across_.first, part.columns.end);
    std::vector<float> band(w), wide(full_width_);
    for (int64_t y = top; y < bottom; ++y) {
      const int64_t above = std::max<int64_t>(0, down_.first[y] - part.rows.begin);
      const int64_t below = std::min<int64_t>(h - 1, down_.second[y] - part.rows.begin);
      const float share = down_.weight[y];
      float* __restrict out = to + y * full_width_;
      for (int c = 0; c <= kColours; ++c) {
        const float *one = terms[c].row(above), *other = terms[c].row(below);
        for (int64_t x = 0; x < w; ++x) band[x] = one[x] + (other[x] - one[x]) * share;
        widen(band, part.columns.begin, left, right, wide.data());
        if (c == kColours) {
          for (int64_t x = left; x < right; ++x) out[x] = std::max(0.0f, out[x] + wide[x]);
        } else {
          const float* colour = image_ + (c * full_height_ + y) * full_width_;
          for (int64_t x = left; x < right; ++x) out[x] += wide[x] * colour[x];
        }
      }
    }
    return {{top, bottom}, {left, right}};
  }

  // A row of the grid's columns from `begin` on, interpolated at the image's `left` to `right`.
  void widen(const std::vector<float>& band, int64_t begin, int64_t left, int64_t right,
             float* __restrict to) const {
    const int64_t last = static_cast<int64_t>(band.size()) - 1;
    if (doubles()) {  // the usual sizes; without a table, several numbers are computed at once
      for (int64_t x = 0; x <= last; ++x) {
        const float here = 0.75f * band[x];
        to[2 * (begin + x)] = here + 0.25f * band[std::max<int64_t>(0, x - 1)];
        to[2 * (begin + x) + 1] = here + 0.25f * band[std::min(last, x + 1)];
      }
      return;
    }
    for (int64_t x = left; x < right; ++x) {
      const float a = band[std::max<int64_t>(0, across_.first[x] - begin)];
      const float b = band[std::min<int64_t>(last, across_.second[x] - begin)];
      to[x] = a + (b - a) * across_.weight[x];
    }
  }

  bool doubles() const { return full_width_ == 2 * width_; }

  static int64_t first_target(const std::vector<int32_t>& sources, int64_t source) {
    return std::lower_bound(sources.begin(), sources.end(), source) - sources.begin();
  }

  Guide guide_;
  Side down_, across_;
  const float* image_;
  int64_t height_, width_, full_height_, full_width_;
};

}  // namespace

// masks: slots x height x width. small, image: 3 planes of height x width and of full_height x
// full_width. result: slots x full_height x full_width.
extern "C" void follow_edges(const float* masks, const float* small, const float* image,
                             int64_t slots, int64_t height, int64_t width, int64_t full_height,
                             int64_t full_width, float* result, int threads) {
  if (slots == 0) return;
  Filter filter(small, image, height, width, full_height, full_width);
  const int64_t pixels = full_height * full_width;
  // The largest mask, the table's perhaps, gets what the others leave: less work.
  std::vector<Part> parts(slots);
  int64_t largest = 0;
  for (int64_t k = 0; k < slots; ++k) {
    parts[k] = part_of(masks + k * height * width, height, width);
    if (parts[k].sum > parts[largest].sum) largest = k;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t k = 0; k < slots; ++k) {
    if (k == largest) continue;
    parts[k] = filter.follow(masks + k * height * width, parts[k], result + k * pixels);
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t y = 0; y < full_height; ++y) {
    const auto in_row = [&](auto&& use) {
      for (int64_t k = 0; k < slots; ++k) {
        const Part& part = parts[k];
        if (k == largest || y < part.rows.begin || y >= part.rows.end) continue;
        use(result + k * pixels + y * full_width, part.columns);
      }
    };
    std::vector<float> scales(full_width);
    in_row([&](const float* row, const Range& range) {
      for (int64_t x = range.begin; x < range.end; ++x) scales[x] += row[x];
    });
    float* rest = result + largest * pixels + y * full_width;
    for (int64_t x = 0; x < full_width; ++x) {
      rest[x] = std::max(0.0f, 1.0f - scales[x]);
      scales[x] = 1.0f / std::max(1.0f, scales[x]);
    }
    in_row([&](float* row, const Range& range) {
      for (int64_t x = range.begin; x < range.end; ++x) row[x] *= scales[x];
    });
  }
}
