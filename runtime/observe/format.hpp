#pragma once

#include <cstdint>
#include <string>
#include <string_view>

/// How numbers and foreign text are shown to people. Pure functions, any thread.
namespace baton {

/// "999 B", "1.5 MiB": binary units, one decimal from KiB on.
std::string format_bytes(std::int64_t bytes);

/// "850 us", "12.3 ms", "4.21 s", "38.5 s", "2 min 5 s", "1 h 12 min"; "-" for what is no time (negative, not finite).
std::string format_seconds(double seconds);

/// "32,768".
std::string format_count(std::int64_t count);

/// A rate in things per second with no more digits than mean something: "2,663", "41.2"; "-" for none.
std::string format_rate(double per_second);

/// `text` as it may be sent to a terminal: valid UTF-8 in which line feed and tab are the only control characters.
/// Others (escape sequences, carriage returns, C1 controls) and marks that turn the writing direction become visible
/// as "\x1b", "\u202e". What is not UTF-8 becomes U+FFFD.
std::string printable(std::string_view text);

/// Columns that `text` takes on a terminal: one for a character, none for an escape sequence that sets colour or
/// moves the cursor.
int display_columns(std::string_view text);

/// `text` in at most `columns` columns, its end replaced by "~" where it is longer. For text without escape sequences.
std::string shortened(std::string_view text, int columns);

}  // namespace baton
