#include "runtime/bench/svg_plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

namespace baton {
namespace {

constexpr double width = 480;
constexpr double height = 320;
constexpr double left = 58;
constexpr double right = 12;
constexpr double top = 12;
constexpr double bottom = 46;

// Okabe and Ito's colours, which people who do not see all colours tell apart too.
constexpr std::array<std::string_view, 8> colours{"#000000", "#0072B2", "#D55E00", "#009E73",
                                                  "#CC79A7", "#E69F00", "#56B4E9", "#999999"};
constexpr std::array<std::string_view, 4> dashes{"none", "6 3", "2 2", "8 3 2 3"};

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&') {
      safe += "&amp;";
    } else if (c == '<') {
      safe += "&lt;";
    } else {
      safe += c;
    }
  }
  return safe;
}

/// A logarithmic axis from a number below all others to one above.
struct axis {
  double low = 0;
  double high = 0;
  double from = 0;  ///< on paper
  double to = 0;

  [[nodiscard]] double place(double value) const {
    return from + (to - from) * std::log(value / low) / std::log(high / low);
  }
};

std::string tokens_text(double tokens) {
  if (tokens >= 1048576) return fmt::format("{:g}M", tokens / 1048576);
  return tokens >= 1024 ? fmt::format("{:g}K", tokens / 1024) : fmt::format("{:g}", tokens);
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(text));
}

std::string grid_line(double x1, double y1, double x2, double y2) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#dddddd\"/>\n", x1, y1, x2,
                     y2);
}

std::string mark(std::size_t kind, double x, double y, std::string_view colour) {
  switch (kind % 3) {
    case 0: return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x, y, colour);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"6\" height=\"6\" fill=\"{}\"/>\n", x - 3, y - 3,
                         colour);
    default: return fmt::format("<path d=\"M{:.1f} {:.1f} l4 7 l-8 0 z\" fill=\"{}\"/>\n", x, y - 4, colour);
  }
}

std::string axes(const plot& drawing, const axis& x, const axis& y) {
  std::string text;
  for (double tokens = std::exp2(std::ceil(std::log2(x.low))); tokens <= x.high; tokens *= 2) {
    text += grid_line(x.place(tokens), y.from, x.place(tokens), y.to);
    text += text_at(x.place(tokens), height - bottom + 16, "middle", tokens_text(tokens));
  }
  for (double power = std::pow(10, std::floor(std::log10(y.low))); power <= y.high; power *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      const double value = power * step;
      if (value < y.low || value > y.high) continue;
      text += grid_line(x.from, y.place(value), x.to, y.place(value));
      text += text_at(left - 6, y.place(value) + 4, "end", fmt::format("{:g}", value));
    }
  }
  text += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"black\"/>\n", left,
                      top, width - left - right, height - top - bottom);
  text += text_at((left + width - right) / 2, height - 10, "middle", drawing.x_title);
  text += fmt::format("<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                      (top + height - bottom) / 2, escaped(drawing.y_title));
  return text;
}

}  // namespace

std::string to_svg(const plot& drawing) {
  axis x{1, 1, left, width - right};
  axis y{1, 1, height - bottom, top};
  bool first = true;
  for (const auto& line : drawing.lines) {
    for (const auto& p : line.points) {
      x.low = first ? p.x : std::min(x.low, p.x);
      x.high = first ? p.x : std::max(x.high, p.x);
      y.low = first ? p.low : std::min(y.low, p.low);
      y.high = first ? p.high : std::max(y.high, p.high);
      first = false;
    }
  }
  x.low /= 1.15;
  x.high *= 1.15;
  y.low /= 1.3;
  y.high *= 1.3;

  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:g} {1:g}\" width=\"{0:g}\" height=\"{1:g}\" "
      "font-family=\"Times, serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width, height);
  text += axes(drawing, x, y);
  for (std::size_t i = 0; i < drawing.lines.size(); ++i) {
    const auto& line = drawing.lines[i];
    const auto colour = colours[i % colours.size()];
    std::string path;
    std::string points;
    for (const auto& p : line.points) {
      path += fmt::format("{}{:.1f} {:.1f} ", path.empty() ? "M" : "L", x.place(p.x), y.place(p.y));
      points += fmt::format("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\"/>\n",
                            x.place(p.x), y.place(p.low), y.place(p.high), colour);
      points += mark(i, x.place(p.x), y.place(p.y), colour);
    }
    text += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.4\" stroke-dasharray=\"{}\"/>\n",
                        path, colour, dashes[i % dashes.size()]);
    text += points;
    const double row = top + 16 + 15 * static_cast<double>(i);
    text += fmt::format(
        "<line x1=\"{:g}\" y1=\"{:g}\" x2=\"{:g}\" y2=\"{:g}\" stroke=\"{}\" stroke-width=\"1.4\" "
        "stroke-dasharray=\"{}\"/>\n",
        left + 8, row - 4, left + 34, row - 4, colour, dashes[i % dashes.size()]);
    text += mark(i, left + 21, row - 4, colour);
    text += text_at(left + 40, row, "start", line.name);
  }
  return text + "</svg>\n";
}

}  // namespace baton
