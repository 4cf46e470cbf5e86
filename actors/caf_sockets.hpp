#pragma once

namespace baton::actors {

/// CAF 0.17 knows a connection by the number of its socket. When one has been closed, it forgets what it knew of it a moment later, behind what
/// is still to be delivered; and if a new connection has come by then, and has got the same number, it forgets that one: the connection
/// stays open, and no answer ever goes that way. So this program has its own accept, which libcaf_io finds first and which gives no number
/// again soon. Throws fault(internal) where it would find another, as it would if the program were linked in some other way.
void check_sockets_are_mended();

}  // namespace baton::actors
