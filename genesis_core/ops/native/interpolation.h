// Linear interpolation along a side, as OpenCV has it: where each target lies between two sources.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

struct Side {
  Side(int64_t source, int64_t target) : first(target), second(target), weight(target) {
    const double scale = static_cast<double>(source) / static_cast<double>(target);
    for (int64_t i = 0; i < target; ++i) {
      const double place = (static_cast<double>(i) + 0.5) * scale - 0.5;
      const double inside = std::min(std::max(place, 0.0), static_cast<double>(source - 1));
      first[i] = static_cast<int32_t>(inside);
      second[i] = static_cast<int32_t>(std::min<int64_t>(first[i] + 1, source - 1));
      weight[i] = static_cast<float>(inside - first[i]);
    }
  }

  std::vector<int32_t> first, second;
  std::vector<float> weight;  // of the second
};
