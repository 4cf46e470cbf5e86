#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace baton {

/// The part of a terminal that frames use. It notes lines that would wrap and moves above its first line.
class small_terminal {
 public:
  small_terminal(int columns, int rows) : columns_(columns), rows_(static_cast<std::size_t>(rows)) {}

  void show(std::string_view text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\x1b') {
        i = obey(text, i + 2);
      } else if (text[i] == '\n') {
        if (++row_ == lines_.size()) lines_.emplace_back();
        column_ = 0;
      } else if (text[i] == '\r') {
        column_ = 0;
      } else {
        auto& line = lines_[row_];
        line.resize(std::max(line.size(), column_ + 1), ' ');
        line[column_++] = text[i];
        if (static_cast<int>(column_) >= columns_) wrapped = true;
      }
    }
  }
  [[nodiscard]] const std::vector<std::string>& lines() const { return lines_; }

  bool wrapped = false;
  bool left_screen = false;

 private:
  std::size_t obey(std::string_view text, std::size_t i) {
    std::size_t number = 0;
    for (; text[i] >= '0' && text[i] <= '9'; ++i) number = number * 10 + static_cast<std::size_t>(text[i] - '0');
    switch (text[i]) {
      case 'A':
        if (number > row_ || number >= rows_) left_screen = true;
        row_ -= std::min(number, row_);
        break;
      case 'K': lines_[row_].resize(std::min(lines_[row_].size(), column_)); break;
      case 'J':
        lines_[row_].resize(std::min(lines_[row_].size(), column_));
        lines_.resize(row_ + 1);
        break;
      case 'm': break;
      default: ADD_FAILURE() << "unknown escape code " << text[i];
    }
    return i;
  }

  int columns_;
  std::size_t rows_;
  std::vector<std::string> lines_{""};
  std::size_t row_ = 0;
  std::size_t column_ = 0;
};

}  // namespace baton
