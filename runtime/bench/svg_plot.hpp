#pragma once

#include <string>
#include <vector>

namespace baton {

struct plot_point {
  double x = 0;
  double y = 0;
  double low = 0;  ///< of y, where it was measured several times
  double high = 0;
};

struct plot_line {
  std::string name;
  std::vector<plot_point> points{};  ///< by ascending x
};

/// Lines over two logarithmic axes: x with marks at powers of two, y at powers of ten and their 2 and 5. All numbers are above 0.
struct plot {
  std::string x_title;
  std::string y_title;
  std::vector<plot_line> lines{};
};

/// An SVG file that a paper can take as it stands: 480 by 320, black text in a serif face, lines told apart by mark and dash as well as
/// by colour.
std::string to_svg(const plot& drawing);

}  // namespace baton
