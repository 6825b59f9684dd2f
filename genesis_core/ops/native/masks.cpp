// Soft masks: pieces apart joined to what surrounds them; at the size of a camera image, in 8 bits,
// enlarged, and settled so that every pixel's sum is 255. These two do in one pass, while a row is in
// the cache, what array operations do in dozens; threads share the rows.
//
// Masks are K x H x W, row by row.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "interpolation.h"

namespace {

constexpr int kOne = 255;  // a probability of one
constexpr int kRounds = 3;  // of joining pieces; more than two are hardly ever needed

// The rows of all masks that are in use, enlarged across and multiplied by 255.
class Band {
 public:
  Band(const float* masks, int64_t slots, int64_t rows, int64_t columns, const Side& across)
      : masks_(masks), slots_(slots), rows_(rows), columns_(columns), across_(across) {
    for (auto& row : rows_in_use_) {
      row.values.resize(slots * across.first.size());
      row.begins.resize(slots);
      row.ends.resize(slots);
    }
  }

  // A row of every mask, slots x width, and the columns outside of which it is zero.
  struct Row {
    std::vector<float> values;
    std::vector<int64_t> begins, ends;
    int64_t number = -1;
  };

  // Neighbours do not displace each other.
  const Row& row(int64_t number) {
    Row& row = rows_in_use_[number % 2];
    if (row.number != number) {
      row.number = number;
      enlarge(number, row);
    }
    return row;
  }

 private:
  void enlarge(int64_t number, Row& row) const {
    float* __restrict to = row.values.data();
    const int64_t width = static_cast<int64_t>(across_.first.size());
    const int32_t* __restrict first = across_.first.data();
    const int32_t* __restrict second = across_.second.data();
    const float* __restrict weight = across_.weight.data();
    for (int64_t k = 0; k < slots_; ++k, to += width) {
      const float* __restrict from = masks_ + (k * rows_ + number) * columns_;
      int64_t left = 0, right = columns_;
      while (left < columns_ && from[left] == 0) ++left;
      while (right > left && from[right - 1] == 0) --right;
      int64_t begin = 0, end = 0;
      if (left < right) {  // those that lie next to a column that is not zero
        begin = std::lower_bound(second, second + width, left) - second;
        end = std::lower_bound(first, first + width, right) - first;
      }
      row.begins[k] = begin;
      row.ends[k] = end;
      std::fill(to, to + begin, 0.0f);
      for (int64_t x = begin; x < end; ++x) {
        // In a form that is exact where both are equal.
        to[x] = kOne * (from[first[x]] + (from[second[x]] - from[first[x]]) * weight[x]);
      }
      std::fill(to + end, to + width, 0.0f);
    }
  }

  const float* masks_;
  int64_t slots_, rows_, columns_;
  const Side& across_;
  Row rows_in_use_[2];
};

// What a slot has of the image, and of which columns.
struct Extent {
  explicit Extent(int64_t width) : covered(width), won(width) {}

  void add(const Extent& other) {
    for (size_t x = 0; x < won.size(); ++x) {
      covered[x] |= other.covered[x];
      won[x] += other.won[x];
    }
    top = std::min(top, other.top);
    bottom = std::max(bottom, other.bottom);
    own_top = std::min(own_top, other.own_top);
    own_bottom = std::max(own_bottom, other.own_bottom);
    sum_y += other.sum_y;
    own += other.own;
    total += other.total;
  }

  std::vector<uint8_t> covered;  // not 0 where the mask is not, in any row
  std::vector<int32_t> won;      // pixels that the slot wins
  int64_t top = INT64_MAX, bottom = -1, own_top = INT64_MAX, own_bottom = -1;
  int64_t sum_y = 0, own = 0, total = 0;
};

bool contains(const uint8_t* __restrict values, int64_t count, uint8_t wanted) {
  uint8_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= values[i] == wanted;
  return found;
}

void write(const Extent& extent, int64_t* result) {
  const int64_t width = static_cast<int64_t>(extent.won.size());
  int64_t left = width, right = -1, own_left = width, own_right = -1, area = 0, sum_x = 0;
  for (int64_t x = 0; x < width; ++x) {
    if (extent.covered[x]) {
      left = std::min(left, x);
      right = x;
    }
    if (extent.won[x]) {
      own_left = std::min(own_left, x);
      own_right = x;
    }
    area += extent.won[x];
    sum_x += x * extent.won[x];
  }
  const int64_t values[] = {left,
                            extent.top,
                            right - left + 1,
                            extent.bottom - extent.top + 1,
                            own_left,
                            extent.own_top,
                            own_right - own_left + 1,
                            extent.own_bottom - extent.own_top + 1,
                            area,
                            sum_x,
                            extent.sum_y,
                            extent.own,
                            extent.total};
  std::copy(std::begin(values), std::end(values), result);
}

}  // namespace

extern "C" {

// masks: slots x rows x columns probabilities. full: slots x height x width, 255 times the
// probability, rounded down. winners: height x width, the slot of the largest, the first of several.
// areas and sums: per slot, the pixels that it wins and their values' sum.
void enlarge(const float* masks, int64_t slots, int64_t rows, int64_t columns, int64_t height,
             int64_t width, uint8_t* full, uint8_t* winners, int64_t* areas, int64_t* sums,
             int threads) {
  const Side across(columns, width), down(rows, height);
  std::fill(areas, areas + slots, 0);
  std::fill(sums, sums + slots, 0);
#pragma omp parallel num_threads(threads)
  {
    Band band(masks, slots, rows, columns, across);
    std::vector<uint8_t> highest(width);
    std::vector<int64_t> area(slots), sum(slots);
    std::vector<int64_t> begin(slots), end(slots);  // columns outside of which a mask is zero
    uint8_t* __restrict best = highest.data();
#pragma omp for schedule(static)
    for (int64_t y = 0; y < height; ++y) {
      uint8_t* __restrict winner = winners + y * width;
      const float weight = down.weight[y];
      const Band::Row& above = band.row(down.first[y]);
      const Band::Row& below = band.row(down.second[y]);
      for (int64_t k = 0; k < slots; ++k) {
        const float* __restrict upper = above.values.data() + k * width;
        const float* __restrict lower = below.values.data() + k * width;
        uint8_t* __restrict to = full + (k * height + y) * width;
        // Most of an image is nowhere near a small object: it wins nothing there.
        begin[k] = width;
        end[k] = 0;
        for (const Band::Row* row : {&above, &below}) {
          if (row->begins[k] == row->ends[k]) continue;
          begin[k] = std::min(begin[k], row->begins[k]);
          end[k] = std::max(end[k], row->ends[k]);
        }
        begin[k] = std::min(begin[k], end[k]);
        std::fill(to, to + begin[k], 0);
        std::fill(to + end[k], to + width, 0);
        for (int64_t x = begin[k]; x < end[k]; ++x) {
          const float value = upper[x] + (lower[x] - upper[x]) * weight;
          to[x] = static_cast<uint8_t>(
              static_cast<int>(std::min(std::max(value, 0.0f), static_cast<float>(kOne))));
        }
        if (k == 0) {
          std::copy(to, to + width, best);
          std::fill(winner, winner + width, 0);
        } else {
          const uint8_t slot = static_cast<uint8_t>(k);
          for (int64_t x = begin[k]; x < end[k]; ++x) {
            winner[x] = to[x] > best[x] ? slot : winner[x];
            best[x] = std::max(to[x], best[x]);
          }
        }
      }
      for (int64_t k = 0; k < slots; ++k) {
        const uint8_t slot = static_cast<uint8_t>(k);
        // The first slot also has what nobody wins.
        const int64_t from = k == 0 ? 0 : begin[k], until = k == 0 ? width : end[k];
        if (!contains(winner + from, until - from, slot)) continue;
        int32_t pixels = 0, values = 0;
        for (int64_t x = from; x < until; ++x) {
          pixels += winner[x] == slot;
          values += winner[x] == slot ? best[x] : 0;
        }
        area[k] += pixels;
        sum[k] += values;
      }
    }
#pragma omp critical
    for (int64_t k = 0; k < slots; ++k) {
      areas[k] += area[k];
      sums[k] += sum[k];
    }
  }
}

// Keeps slots that win at least so many pixels, and any. In winners, in place, pixels of the others go
// to the kept slot whose mask is the largest there, the first of several; without any, nobody wins.
// 255 in winners means that nobody wins. kept: room for all slots. Returns how many are kept.
int64_t drop_small(const uint8_t* masks, uint8_t* winners, int64_t slots, int64_t height,
                   int64_t width, double pixels, int64_t* kept, int threads) {
  constexpr int kNumbers = 256, kRows = 4;  // neighbours mostly win alike: not one counter for all
  const int64_t size = height * width;
  std::vector<int64_t> counts(kNumbers, 0);
#pragma omp parallel num_threads(threads)
  {
    std::vector<int32_t> own(kNumbers * kRows, 0);
#pragma omp for schedule(static)
    for (int64_t y = 0; y < height; ++y) {
      const uint8_t* winner = winners + y * width;
      for (int64_t x = 0; x < width; ++x) ++own[(x % kRows) * kNumbers + winner[x]];
    }
#pragma omp critical
    for (int i = 0; i < kNumbers * kRows; ++i) counts[i % kNumbers] += own[i];
  }
  std::vector<uint8_t> lost(kNumbers, 0);
  bool any = false;
  int64_t count = 0;
  for (int64_t k = 0; k < slots; ++k) {
    if (counts[k] && counts[k] >= pixels) {
      kept[count++] = k;
    } else if (counts[k]) {
      lost[k] = any = true;
    }
  }
  if (!any) return count;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t y = 0; y < height; ++y) {
    uint8_t* winner = winners + y * width;
    for (int64_t x = 0; x < width; ++x) {
      if (!lost[winner[x]]) continue;
      int best = -1;
      winner[x] = 255;
      for (int64_t i = 0; i < count; ++i) {
        const int value = masks[kept[i] * size + y * width + x];
        if (value > best) {
          best = value;
          winner[x] = static_cast<uint8_t>(kept[i]);
        }
      }
    }
  }
  return count;
}

// Of the kept slots, in place: values up to the threshold become 0, and each pixel's winner (one of
// them, or none) gets what is missing of 255. labels: height x width, 1 for the first kept slot.
// results: 13 numbers per kept slot: x, y, width and height of the box around the mask, the same
// around the pixels that it wins, their number, sums of their x and y and of their values, and the
// sum of all values. Every kept slot has to win a pixel.
void settle(uint8_t* masks, const uint8_t* winners, const int64_t* kept, int64_t count,
            int64_t height, int64_t width, int threshold, uint8_t* labels, int64_t* results,
            int threads) {
  const std::vector<Extent> nothing(count, Extent(width));
  std::vector<Extent> all = nothing;
#pragma omp parallel num_threads(threads)
  {
    std::vector<Extent> extents = nothing;
    std::vector<uint8_t> remainder(width);
    std::vector<uint8_t> visible(count);  // of this row, whether anything of a mask is left
    uint8_t* __restrict rest = remainder.data();
    // In 8 bits, as many pixels at once as possible.
    const uint8_t zero = 0, most = static_cast<uint8_t>(std::min(std::max(threshold, 0), kOne));
#pragma omp for schedule(static)
    for (int64_t y = 0; y < height; ++y) {
      const uint8_t* __restrict winner = winners + y * width;
      uint8_t* __restrict label = labels + y * width;
      std::fill(rest, rest + width, static_cast<uint8_t>(kOne));
      std::fill(label, label + width, 0);
      for (int64_t i = 0; i < count; ++i) {
        uint8_t* __restrict mask = masks + (kept[i] * height + y) * width;
        uint8_t any = 0;
        for (int64_t x = 0; x < width; ++x) {
          const uint8_t value = mask[x] > most ? mask[x] : zero;
          mask[x] = value;
          rest[x] = static_cast<uint8_t>(std::max(rest[x], value) - value);
          any |= value;
        }
        visible[i] = any;
      }
      for (int64_t i = 0; i < count; ++i) {
        uint8_t* __restrict mask = masks + (kept[i] * height + y) * width;
        Extent& extent = extents[i];
        uint8_t* __restrict covered = extent.covered.data();
        int32_t* __restrict won = extent.won.data();
        const uint8_t slot = static_cast<uint8_t>(kept[i]);
        if (!visible[i] && !contains(winner, width, slot)) continue;  // nothing of it in this row
        const uint8_t name = static_cast<uint8_t>(i + 1);
        for (int64_t x = 0; x < width; ++x) {
          const uint8_t mine = winner[x] == slot ? 0xff : 0;
          const uint8_t value = static_cast<uint8_t>(mask[x] + (rest[x] & mine));
          mask[x] = value;
          covered[x] |= value;
          label[x] |= name & mine;
        }
        int32_t area = 0, own = 0, total = 0;
        for (int64_t x = 0; x < width; ++x) {
          const int32_t mine = winner[x] == slot;
          won[x] += mine;
          area += mine;
          own += mine ? mask[x] : 0;
          total += mask[x];
        }
        if (total) {
          extent.top = std::min(extent.top, y);
          extent.bottom = y;
        }
        if (area) {
          extent.own_top = std::min(extent.own_top, y);
          extent.own_bottom = y;
        }
        extent.sum_y += y * area;
        extent.own += own;
        extent.total += total;
      }
    }
#pragma omp critical
    for (int64_t i = 0; i < count; ++i) all[i].add(extents[i]);
  }
  for (int64_t i = 0; i < count; ++i) write(all[i], results + 13 * i);
}

// Gives small pieces to the slot that borders on them most, the first of several, specks to the one
// slot around them, and then what a slot has, floor or more, where nothing like it leads to a piece that
// it kept, to the slot that wins there. Masks are changed; chosen says of which slots, but for specks,
// which are any slot's. share says which pieces are small: those below that share of the slot's largest.
// Specks are pieces of fewer pixels than speck, if their slot wins more elsewhere.
void join_pieces(float* masks, const uint8_t* chosen, int64_t slots, int64_t height, int64_t width,
                 double share, double floor, int64_t speck) {
  const int64_t pixels = height * width;
  std::vector<uint16_t> winners(pixels, 0);
  std::vector<float> best(masks, masks + pixels);
  for (int64_t k = 1; k < slots; ++k) {
    const float* mask = masks + k * pixels;
    for (int64_t i = 0; i < pixels; ++i) {
      const bool better = mask[i] > best[i];
      winners[i] = better ? static_cast<uint16_t>(k) : winners[i];
      best[i] = better ? mask[i] : best[i];
    }
  }
  std::vector<uint8_t> reached(pixels);
  std::vector<int32_t> members;
  members.reserve(pixels);
  // Calls a function for a pixel and those that touch it.
  const auto around = [&](int64_t pixel, const auto& visit) {
    const int64_t y = pixel / width, x = pixel % width;
    for (int64_t v = std::max<int64_t>(y - 1, 0); v <= std::min(y + 1, height - 1); ++v) {
      for (int64_t u = std::max<int64_t>(x - 1, 0); u <= std::min(x + 1, width - 1); ++u) {
        visit(v * width + u);
      }
    }
  };
  const auto give = [&](int64_t slot, int64_t taker, int64_t i) {
    masks[taker * pixels + i] += masks[slot * pixels + i];
    masks[slot * pixels + i] = 0;
  };
  struct Piece {
    int64_t slot, first, count;  // its pixels are members[first ...]
  };
  std::vector<Piece> pieces;
  std::vector<int64_t> largest(slots), borders(slots);
  // A piece may go to another one that is small itself; so once more.
  bool moved = true;
  for (int round = 0; round < kRounds && moved; ++round) {
    moved = false;
    pieces.clear();
    members.clear();
    std::fill(reached.begin(), reached.end(), 0);
    std::fill(largest.begin(), largest.end(), 0);
    for (int64_t start = 0; start < pixels; ++start) {
      const uint16_t slot = winners[start];
      if (reached[start] || !chosen[slot]) continue;
      const size_t first = members.size();
      reached[start] = 1;
      members.push_back(static_cast<int32_t>(start));
      for (size_t n = first; n < members.size(); ++n) {
        around(members[n], [&](int64_t i) {
          if (reached[i] || winners[i] != slot) return;
          reached[i] = 1;
          members.push_back(static_cast<int32_t>(i));
        });
      }
      const auto count = static_cast<int64_t>(members.size() - first);
      pieces.push_back({slot, static_cast<int64_t>(first), count});
      largest[slot] = std::max(largest[slot], count);
    }
    for (const Piece& piece : pieces) {
      const double enough = share * static_cast<double>(largest[piece.slot]);
      if (static_cast<double>(piece.count) >= enough) continue;
      std::fill(borders.begin(), borders.end(), 0);
      const auto begin = members.begin() + piece.first, end = begin + piece.count;
      for (auto i = begin; i < end; ++i) {
        const int64_t y = *i / width, x = *i % width;
        if (y > 0) ++borders[winners[*i - width]];
        if (y + 1 < height) ++borders[winners[*i + width]];
        if (x > 0) ++borders[winners[*i - 1]];
        if (x + 1 < width) ++borders[winners[*i + 1]];
      }
      borders[piece.slot] = 0;
      const int64_t taker = std::max_element(borders.begin(), borders.end()) - borders.begin();
      if (!borders[taker]) continue;  // what was beside it has just become its own slot's
      for (auto i = begin; i < end; ++i) {
        give(piece.slot, taker, *i);
        winners[*i] = static_cast<uint16_t>(taker);
      }
      moved = true;
    }
  }
  std::vector<int64_t> totals(slots, 0);
  for (const uint16_t slot : winners) ++totals[slot];
  pieces.clear();
  members.clear();
  for (int64_t start = 0, x = 0; start < pixels; ++start, x = x + 1 < width ? x + 1 : 0) {
    const uint16_t slot = winners[start];
    // Most pixels have one of their slot's at the left or above: no piece begins there.
    if (x > 0 && winners[start - 1] == slot) continue;
    if (start >= width && winners[start - width] == slot) continue;
    const auto first = static_cast<int64_t>(members.size());
    int64_t count = 1;
    bool begins = true;  // with this pixel, in their order
    members.push_back(static_cast<int32_t>(start));
    for (int64_t n = first; n < first + count && count < speck && begins; ++n) {
      around(members[n], [&](int64_t i) {
        const auto same = [i](int32_t member) { return member == i; };
        if (winners[i] != slot || std::any_of(members.begin() + first, members.end(), same)) return;
        begins &= i > start;
        ++count;
        members.push_back(static_cast<int32_t>(i));
      });
    }
    if (begins && count < speck) {
      pieces.push_back({slot, first, count});
    } else {
      members.resize(first);
    }
  }
  for (const Piece& piece : pieces) {
    const auto begin = members.begin() + piece.first, end = begin + piece.count;
    int64_t taker = -1;
    bool alone = totals[piece.slot] > piece.count;  // among pixels of one other slot
    for (auto member = begin; member < end; ++member) {
      around(*member, [&](int64_t i) {
        if (std::find(begin, end, i) != end) return;
        if (taker == -1) taker = winners[i];
        alone &= winners[i] == taker && taker != piece.slot;
      });
    }
    if (!alone || taker == -1) continue;
    for (auto i = begin; i < end; ++i) {
      give(piece.slot, taker, *i);
      winners[*i] = static_cast<uint16_t>(taker);
    }
    totals[piece.slot] -= piece.count;
    totals[taker] += piece.count;
  }
  // Weak pixels: those that another slot wins.
  const auto lowest = static_cast<float>(floor);
  std::vector<uint8_t> weak(pixels);
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (!chosen[slot]) continue;
    const float* const mask = masks + slot * pixels;
    for (int64_t i = 0; i < pixels; ++i) weak[i] = mask[i] >= lowest && winners[i] != slot;
    const uint8_t* const end = weak.data() + pixels;
    const auto next = [&](const uint8_t* from) {
      return static_cast<const uint8_t*>(std::memchr(from, 1, end - from));
    };
    for (const uint8_t* at = next(weak.data()); at; at = next(at)) {
      members.assign(1, static_cast<int32_t>(at - weak.data()));
      weak[members[0]] = 0;
      bool leads = false;  // to what the slot wins
      for (size_t n = 0; n < members.size(); ++n) {
        around(members[n], [&](int64_t i) {
          leads |= winners[i] == slot;
          if (!weak[i]) return;
          weak[i] = 0;
          members.push_back(static_cast<int32_t>(i));
        });
      }
      if (leads) continue;
      for (const int32_t i : members) give(slot, winners[i], i);
    }
  }
}

}  // extern "C"
