// The arguments of each system call, as far as chance needs to know them. A number that is not here is called too, with
// arguments of any kind.
#include "tests/fuzz/system_calls/shapes.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/membarrier.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>

namespace ramet::fuzz {
namespace {

using List = std::span<const std::uint64_t>;
// Numbers of whatever types the headers give them.
constexpr auto list(auto... values) { return std::array{static_cast<std::uint64_t>(values)...}; }
#define LIST(name, ...) constexpr auto name = list(__VA_ARGS__)

LIST(kOpen, O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_NONBLOCK, O_DIRECTORY, O_NOFOLLOW, O_PATH,
     O_CLOEXEC, O_DIRECT, O_SYNC, O_DSYNC, O_NOATIME, O_TMPFILE, O_NOCTTY, O_ASYNC, O_CREAT | O_RDWR);
LIST(kAt, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_REMOVEDIR, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT,
     AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC);
LIST(kProt, PROT_READ, PROT_WRITE, PROT_EXEC, PROT_READ | PROT_WRITE, PROT_GROWSDOWN, PROT_GROWSUP, 0x8);
LIST(kMap, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_FIXED,
     MAP_FIXED_NOREPLACE, MAP_POPULATE, MAP_GROWSDOWN, MAP_NORESERVE, MAP_LOCKED, MAP_32BIT, MAP_HUGETLB, MAP_STACK,
     MAP_SHARED_VALIDATE, MAP_SYNC, MAP_NONBLOCK);
LIST(kRemap, MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP, MREMAP_MAYMOVE | MREMAP_FIXED);
LIST(kAdvice, 0, 1, 2, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK, MADV_HUGEPAGE,
     MADV_NOHUGEPAGE, MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLD, MADV_PAGEOUT,
     MADV_DONTDUMP, MADV_DODUMP, MADV_MERGEABLE, MADV_HWPOISON, 25);
LIST(kMsync, MS_ASYNC, MS_SYNC, MS_INVALIDATE);
LIST(kMlock, MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, 1);
LIST(kMembarrier, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256);
LIST(kWhence, SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, 5);
LIST(kFcntl, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETOWN, F_GETOWN, F_GETLK, F_SETLK, F_SETLKW,
     F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_GETPIPE_SZ, F_SETPIPE_SZ, F_GET_SEALS, F_ADD_SEALS, F_SETLEASE, F_NOTIFY,
     F_SETSIG);
LIST(kIoctl, FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC, FIONREAD, TCGETS, TCSETS, TCSETSW, TCSETSF, 0x802C542A, 0x402C542B,
     0x402C542D, TIOCGWINSZ, TIOCGPGRP, TIOCSPGRP, TIOCSTI, FICLONE, FS_IOC_SETFLAGS, FIBMAP,
     _IOC(3, 'g', 1, 80), _IOC(3, 'g', 2, 80), _IOC(3, 'g', 3, 80), _IOC(3, 'g', 4, 80), _IOC(3, 'g', 5, 80),
     _IOC(3, 'g', 6, 80), _IOC(1, 'g', 7, 24), _IO('g', 8), _IOC(1, 'g', 9, 8));
LIST(kFallocate, 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
     FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE);
LIST(kRwf, RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND, 0x20);
LIST(kSplice, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, SPLICE_F_GIFT, SPLICE_F_NONBLOCK | SPLICE_F_GIFT);
LIST(kMemfd, MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, 8, 16);
LIST(kClone, CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK, CLONE_SETTLS, CLONE_PARENT_SETTID,
     CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID, CLONE_PARENT, CLONE_SYSVSEM, CLONE_CLEAR_SIGHAND, CLONE_PIDFD, SIGCHLD,
     CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, CLONE_NEWUSER);
LIST(kWait, WNOHANG, WUNTRACED, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL, __WCLONE, __WNOTHREAD, WEXITED | WNOHANG);
LIST(kIdType, P_ALL, P_PID, P_PGID, 3, 4);
LIST(kFutex, FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAKE_OP, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET,
     FUTEX_LOCK_PI, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, FUTEX_WAKE | FUTEX_PRIVATE_FLAG,
     FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG,
     FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME);
LIST(kSigHow, SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK, 3);
LIST(kEight, 8, 8, 8, 8, 8, 8, 8, 0, 16, 4);
LIST(kSfd, SFD_NONBLOCK, SFD_CLOEXEC);
LIST(kEfd, EFD_SEMAPHORE, EFD_NONBLOCK, EFD_CLOEXEC);
LIST(kTfd, TFD_NONBLOCK, TFD_CLOEXEC);
LIST(kTfdSet, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET);
LIST(kClock, CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW,
     CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, CLOCK_TAI,
     ~std::uint64_t{5}, ~std::uint64_t{1}, ~std::uint64_t{8 * 1000}, 10);
LIST(kItimer, ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF, 3);
LIST(kTimerId, 0, 1, 2, 3, ~0ull, 1ull << 31);
LIST(kEpollOp, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, 4);
LIST(kNonblock, O_NONBLOCK, O_CLOEXEC, O_DIRECT, O_NONBLOCK | O_CLOEXEC);
LIST(kFamily, AF_UNIX, AF_UNIX, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNSPEC);
LIST(kSockType, SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW, SOCK_NONBLOCK, SOCK_CLOEXEC);
LIST(kMsg, MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, MSG_TRUNC, MSG_CTRUNC, MSG_OOB, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC, MSG_EOR,
     MSG_DONTROUTE, MSG_ERRQUEUE, MSG_ZEROCOPY, MSG_DONTWAIT | MSG_NOSIGNAL);
LIST(kLevel, SOL_SOCKET, SOL_SOCKET, SOL_SOCKET, 0, 6, 1000);
LIST(kOption, SO_DEBUG, SO_REUSEADDR, SO_TYPE, SO_ERROR, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_LINGER, SO_PASSCRED,
     SO_PEERCRED, SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDTIMEO, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN, SO_PEEK_OFF, SO_SNDBUFFORCE,
     SO_ATTACH_FILTER, SO_PEERSEC, SO_PASSSEC, SO_PEERGROUPS, SO_BINDTODEVICE, SO_MARK, SO_TIMESTAMP, 76, 77);
LIST(kPrctl, PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_GET_KEEPCAPS, PR_SET_KEEPCAPS, PR_SET_NAME,
     PR_GET_NAME, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK,
     PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_THP_DISABLE,
     PR_GET_THP_DISABLE, PR_SET_VMA, PR_SET_MM, PR_SET_PTRACER, PR_SET_DUMPABLE);
LIST(kArchPrctl, 0x1001, 0x1002, 0x1003, 0x1004, 0x1011, 0x1012, 0x2001);
LIST(kResource, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
LIST(kPriority, PRIO_PROCESS, PRIO_PGRP, PRIO_USER, 3);
LIST(kPolicy, SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE, SCHED_RESET_ON_FORK);
LIST(kWho, 0, 1, ~0ull, 2);
LIST(kFlock, LOCK_SH, LOCK_EX, LOCK_UN, LOCK_NB, LOCK_EX | LOCK_NB, LOCK_SH | LOCK_NB);
LIST(kAccess, R_OK, W_OK, X_OK, F_OK, 8);
LIST(kRename, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT);
LIST(kNode, S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR);
LIST(kXattr, XATTR_CREATE, XATTR_REPLACE, 4);
LIST(kCloseRange, CLOSE_RANGE_UNSHARE, CLOSE_RANGE_CLOEXEC);
LIST(kSysv, 0, 1, 2, 0x1234);
LIST(kShmget, IPC_CREAT, IPC_EXCL, SHM_HUGETLB, SHM_NORESERVE, 0600, IPC_CREAT | 0600);
LIST(kShmat, SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC);
LIST(kShmctl, IPC_RMID, IPC_SET, IPC_STAT, IPC_INFO, SHM_INFO, SHM_STAT, SHM_STAT_ANY, SHM_LOCK, SHM_UNLOCK);
LIST(kRandom, 1, 2, 4);
LIST(kUringEnter, IORING_ENTER_GETEVENTS, IORING_ENTER_SQ_WAKEUP, IORING_ENTER_SQ_WAIT, IORING_ENTER_EXT_ARG,
     IORING_ENTER_REGISTERED_RING);
LIST(kUringRegister, IORING_REGISTER_BUFFERS, IORING_UNREGISTER_BUFFERS, IORING_REGISTER_FILES, IORING_UNREGISTER_FILES,
     IORING_REGISTER_EVENTFD, IORING_UNREGISTER_EVENTFD, IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_EVENTFD_ASYNC,
     IORING_REGISTER_PROBE, IORING_REGISTER_RING_FDS, IORING_UNREGISTER_RING_FDS, IORING_REGISTER_PERSONALITY, 30);
LIST(kPersonality, 0xffffffff, 0, ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, PER_LINUX32);
LIST(kFadvise, 0, 1, 2, 3, 4, 5, 6);
LIST(kShut, SHUT_RD, SHUT_WR, SHUT_RDWR, 3);
LIST(kSyncRange, 1, 2, 4, 8);
LIST(kStatx, STATX_BASIC_STATS, STATX_ALL, STATX_MNT_ID, ~0ull);

constexpr Shape fd{Shape::Fd}, dir{Shape::DirFd}, path{Shape::Path}, at{Shape::Pointer}, page{Shape::Page}, size{Shape::Size},
    any{Shape::Scalar}, iov{Shape::Iov}, count{Shape::Count}, sig{Shape::Signal}, set{Shape::Set}, time{Shape::Times},
    msg{Shape::Message}, name{Shape::SocketName}, length{Shape::Size}, id{Shape::Id}, offset{Shape::Offset},
    mode{Shape::Mode}, text{Shape::Text}, strings{Shape::Strings}, action{Shape::Action};
constexpr Shape flags(List l) { return {Shape::Flags, l}; }
constexpr Shape one(List l) { return {Shape::OneOf, l}; }
constexpr Shape words(std::size_t n) { return {Shape::Words, {}, n}; }    // n words of 64 bits
constexpr Shape ints(std::size_t n) { return {Shape::Ints, {}, n}; }      // n of 32 bits

constexpr CallShape kShapes[] = {
    {SYS_read, {fd, at, size}}, {SYS_write, {fd, at, size}}, {SYS_pread64, {fd, at, size, offset}},
    {SYS_pwrite64, {fd, at, size, offset}}, {SYS_readv, {fd, iov, count}}, {SYS_writev, {fd, iov, count}},
    {SYS_preadv, {fd, iov, count, offset, any}}, {SYS_pwritev, {fd, iov, count, offset, any}},
    {SYS_preadv2, {fd, iov, count, offset, any, flags(kRwf)}}, {SYS_pwritev2, {fd, iov, count, offset, any, flags(kRwf)}},
    {SYS_lseek, {fd, offset, one(kWhence)}}, {SYS_truncate, {path, offset}}, {SYS_ftruncate, {fd, offset}},
    {SYS_fallocate, {fd, one(kFallocate), offset, size}}, {SYS_memfd_create, {text, flags(kMemfd)}},
    {SYS_open, {path, flags(kOpen), mode}}, {SYS_openat, {dir, path, flags(kOpen), mode}}, {SYS_creat, {path, mode}},
    {SYS_openat2, {dir, path, words(3), one(kEight)}}, {SYS_close, {fd}}, {SYS_close_range, {fd, fd, flags(kCloseRange)}},
    {SYS_dup, {fd}}, {SYS_dup2, {fd, fd}}, {SYS_dup3, {fd, fd, flags(kNonblock)}},
    {SYS_stat, {path, at}}, {SYS_lstat, {path, at}}, {SYS_fstat, {fd, at}}, {SYS_newfstatat, {dir, path, at, flags(kAt)}},
    {SYS_statx, {dir, path, flags(kAt), flags(kStatx), at}}, {SYS_access, {path, flags(kAccess)}},
    {SYS_faccessat, {dir, path, flags(kAccess)}}, {439, {dir, path, flags(kAccess), flags(kAt)}},
    {SYS_readlink, {path, at, size}}, {SYS_readlinkat, {dir, path, at, size}}, {SYS_statfs, {path, at}},
    {SYS_fstatfs, {fd, at}}, {SYS_umask, {mode}}, {SYS_getdents64, {fd, at, size}}, {SYS_getdents, {fd, at, size}},
    {SYS_getcwd, {at, size}}, {SYS_chdir, {path}}, {SYS_fchdir, {fd}}, {SYS_chroot, {path}},
    {SYS_mkdir, {path, mode}}, {SYS_mkdirat, {dir, path, mode}}, {SYS_rmdir, {path}}, {SYS_unlink, {path}},
    {SYS_unlinkat, {dir, path, flags(kAt)}}, {SYS_rename, {path, path}}, {SYS_renameat, {dir, path, dir, path}},
    {SYS_renameat2, {dir, path, dir, path, flags(kRename)}}, {SYS_link, {path, path}},
    {SYS_linkat, {dir, path, dir, path, flags(kAt)}}, {SYS_symlink, {path, path}}, {SYS_symlinkat, {path, dir, path}},
    {SYS_mknod, {path, flags(kNode), any}}, {SYS_mknodat, {dir, path, flags(kNode), any}}, {SYS_chmod, {path, mode}},
    {SYS_fchmod, {fd, mode}}, {SYS_fchmodat, {dir, path, mode}}, {452, {dir, path, mode, flags(kAt)}},
    {SYS_chown, {path, any, any}}, {SYS_lchown, {path, any, any}}, {SYS_fchown, {fd, any, any}},
    {SYS_fchownat, {dir, path, any, any, flags(kAt)}}, {SYS_utimensat, {dir, path, time, flags(kAt)}}, {SYS_utime, {path, time}},
    {SYS_utimes, {path, time}}, {SYS_futimesat, {dir, path, time}},
    {SYS_setxattr, {path, text, at, size, flags(kXattr)}}, {SYS_lsetxattr, {path, text, at, size, flags(kXattr)}},
    {SYS_fsetxattr, {fd, text, at, size, flags(kXattr)}}, {SYS_getxattr, {path, text, at, size}},
    {SYS_lgetxattr, {path, text, at, size}}, {SYS_fgetxattr, {fd, text, at, size}}, {SYS_listxattr, {path, at, size}},
    {SYS_llistxattr, {path, at, size}}, {SYS_flistxattr, {fd, at, size}}, {SYS_removexattr, {path, text}},
    {SYS_lremovexattr, {path, text}}, {SYS_fremovexattr, {fd, text}},
    {SYS_fcntl, {fd, one(kFcntl), any}}, {SYS_fcntl, {fd, one(kFcntl), words(4)}}, {SYS_ioctl, {fd, one(kIoctl), words(10)}},
    {SYS_ioctl, {fd, one(kIoctl), ints(4)}}, {SYS_flock, {fd, flags(kFlock)}}, {SYS_fsync, {fd}}, {SYS_fdatasync, {fd}},
    {SYS_syncfs, {fd}}, {SYS_sync, {}}, {SYS_sync_file_range, {fd, offset, offset, flags(kSyncRange)}},
    {SYS_fadvise64, {fd, offset, offset, one(kFadvise)}}, {SYS_readahead, {fd, offset, size}},
    {SYS_sendfile, {fd, fd, words(1), size}}, {SYS_copy_file_range, {fd, words(1), fd, words(1), size, any}},
    {SYS_copy_file_range, {fd, any, fd, any, size, any}}, {SYS_splice, {fd, any, fd, any, size, flags(kSplice)}},
    {SYS_splice, {fd, words(1), fd, words(1), size, flags(kSplice)}}, {SYS_tee, {fd, fd, size, flags(kSplice)}},
    {SYS_vmsplice, {fd, iov, count, flags(kSplice)}},
    {SYS_mmap, {page, size, flags(kProt), flags(kMap), fd, offset}}, {SYS_mmap, {page, size, flags(kProt), flags(kMap), fd, any}},
    {SYS_munmap, {page, size}}, {SYS_mprotect, {page, size, flags(kProt)}},
    {SYS_mremap, {page, size, size, flags(kRemap), page}}, {SYS_madvise, {page, size, one(kAdvice)}},
    {SYS_msync, {page, size, flags(kMsync)}}, {SYS_mincore, {page, size, at}}, {SYS_brk, {page}}, {SYS_mlock, {page, size}},
    {SYS_mlock2, {page, size, any}}, {SYS_munlock, {page, size}}, {SYS_mlockall, {flags(kMlock)}}, {SYS_munlockall, {}},
    {SYS_membarrier, {one(kMembarrier), any, any}},
    {SYS_shmget, {one(kSysv), size, flags(kShmget)}}, {SYS_shmat, {one(kSysv), page, flags(kShmat)}}, {SYS_shmdt, {page}},
    {SYS_shmctl, {one(kSysv), one(kShmctl), words(14)}},
    {SYS_clone, {flags(kClone), at, at, at, at}}, {SYS_clone, {flags(kClone), at, at, at, at}}, {SYS_clone3, {words(11), any}},
    {SYS_fork, {}}, {SYS_fork, {}}, {SYS_vfork, {}}, {SYS_execve, {path, strings, strings}},
    {SYS_execveat, {dir, path, strings, strings, flags(kAt)}}, {SYS_wait4, {id, at, flags(kWait), at}},
    {SYS_waitid, {one(kIdType), id, at, flags(kWait), at}}, {SYS_getppid, {}}, {SYS_getpgrp, {}}, {SYS_getpgid, {id}},
    {SYS_getsid, {id}}, {SYS_setsid, {}}, {SYS_setpgid, {id, id}}, {SYS_exit, {any}}, {SYS_exit_group, {any}}, {SYS_gettid, {}},
    {SYS_getpid, {}}, {SYS_set_tid_address, {at}}, {SYS_prctl, {one(kPrctl), any, any, any, any}},
    {SYS_prctl, {one(kPrctl), text, any, any, any}}, {SYS_prctl, {one(kPrctl), any, page, size, text}},
    {SYS_arch_prctl, {one(kArchPrctl), any}}, {SYS_sched_yield, {}}, {SYS_sched_getaffinity, {id, size, at}},
    {SYS_sched_setaffinity, {id, size, at}}, {SYS_sched_getscheduler, {id}}, {SYS_sched_setscheduler, {id, one(kPolicy), ints(1)}},
    {SYS_sched_getparam, {id, at}}, {SYS_sched_setparam, {id, ints(1)}}, {SYS_sched_get_priority_max, {one(kPolicy)}},
    {SYS_sched_get_priority_min, {one(kPolicy)}}, {SYS_sched_rr_get_interval, {id, at}}, {SYS_getcpu, {at, at, at}},
    {SYS_sched_setattr, {id, words(7), any}}, {SYS_sched_getattr, {id, at, size, any}}, {SYS_ioprio_get, {one(kPriority), id}},
    {SYS_ioprio_set, {one(kPriority), id, any}},
    {SYS_futex, {at, one(kFutex), any, time, at, any}}, {SYS_futex, {at, one(kFutex), any, any, at, any}},
    {SYS_set_robust_list, {words(8), {Shape::OneOf, kWho}}}, {SYS_set_robust_list, {words(8), {Shape::Fixed, {}, 24}}},
    {SYS_get_robust_list, {id, at, at}},
    {SYS_rt_sigaction, {sig, action, at, one(kEight)}}, {SYS_rt_sigprocmask, {one(kSigHow), set, at, one(kEight)}},
    {SYS_rt_sigpending, {at, one(kEight)}}, {SYS_rt_sigsuspend, {set, one(kEight)}},
    {SYS_rt_sigtimedwait, {set, at, time, one(kEight)}}, {SYS_rt_sigqueueinfo, {id, sig, words(16)}},
    {SYS_rt_tgsigqueueinfo, {id, id, sig, words(16)}}, {SYS_rt_sigreturn, {}}, {SYS_restart_syscall, {}}, {SYS_pause, {}},
    {SYS_kill, {id, sig}}, {SYS_tkill, {id, sig}}, {SYS_tgkill, {id, id, sig}}, {SYS_sigaltstack, {words(3), at}},
    {SYS_signalfd, {fd, set, one(kEight)}}, {SYS_signalfd4, {fd, set, one(kEight), flags(kSfd)}},
    {SYS_pipe, {at}}, {SYS_pipe2, {at, flags(kNonblock)}}, {SYS_eventfd, {any}}, {SYS_eventfd2, {any, flags(kEfd)}},
    {SYS_timerfd_create, {one(kClock), flags(kTfd)}}, {SYS_timerfd_settime, {fd, flags(kTfdSet), time, at}},
    {SYS_timerfd_gettime, {fd, at}}, {SYS_poll, {ints(8), count, any}}, {SYS_ppoll, {ints(8), count, time, set, one(kEight)}},
    {SYS_select, {any, words(4), words(4), words(4), time}}, {SYS_pselect6, {any, words(4), words(4), words(4), time, words(2)}},
    {SYS_epoll_create, {any}}, {SYS_epoll_create1, {flags(kNonblock)}}, {SYS_epoll_ctl, {fd, one(kEpollOp), fd, ints(3)}},
    {SYS_epoll_wait, {fd, at, count, any}}, {SYS_epoll_pwait, {fd, at, count, any, set, one(kEight)}},
    {441, {fd, at, count, time, set, one(kEight)}},
    {SYS_socket, {one(kFamily), flags(kSockType), any}}, {SYS_socketpair, {one(kFamily), flags(kSockType), any, at}},
    {SYS_bind, {fd, name, length}}, {SYS_connect, {fd, name, length}}, {SYS_listen, {fd, any}}, {SYS_accept, {fd, at, ints(1)}},
    {SYS_accept4, {fd, at, ints(1), flags(kNonblock)}}, {SYS_getsockname, {fd, at, ints(1)}}, {SYS_getpeername, {fd, at, ints(1)}},
    {SYS_sendto, {fd, at, size, flags(kMsg), name, length}}, {SYS_recvfrom, {fd, at, size, flags(kMsg), at, ints(1)}},
    {SYS_sendmsg, {fd, msg, flags(kMsg)}}, {SYS_recvmsg, {fd, msg, flags(kMsg)}}, {SYS_shutdown, {fd, one(kShut)}},
    {SYS_getsockopt, {fd, one(kLevel), one(kOption), at, ints(1)}}, {SYS_setsockopt, {fd, one(kLevel), one(kOption), ints(4), size}},
    {SYS_uname, {at}}, {SYS_sysinfo, {at}}, {SYS_getrandom, {at, size, flags(kRandom)}}, {SYS_prlimit64, {id, one(kResource), words(2), at}},
    {SYS_getrlimit, {one(kResource), at}}, {SYS_setrlimit, {one(kResource), words(2)}}, {SYS_getrusage, {one(kWho), at}},
    {SYS_setuid, {any}}, {SYS_setgid, {any}}, {SYS_setreuid, {any, any}}, {SYS_setregid, {any, any}}, {SYS_setresuid, {any, any, any}},
    {SYS_setresgid, {any, any, any}}, {SYS_getresuid, {at, at, at}}, {SYS_getresgid, {at, at, at}}, {SYS_setfsuid, {any}},
    {SYS_setfsgid, {any}}, {SYS_getgroups, {size, at}}, {SYS_setgroups, {size, at}}, {SYS_capget, {ints(2), at}},
    {SYS_capset, {ints(2), at}}, {SYS_personality, {one(kPersonality)}}, {SYS_getpriority, {one(kPriority), id}},
    {SYS_setpriority, {one(kPriority), id, any}}, {SYS_clock_gettime, {one(kClock), at}}, {SYS_clock_getres, {one(kClock), at}},
    {SYS_clock_settime, {one(kClock), time}}, {SYS_settimeofday, {time, at}}, {SYS_clock_nanosleep, {one(kClock), any, time, at}},
    {SYS_nanosleep, {time, at}}, {SYS_gettimeofday, {at, at}}, {SYS_time, {at}}, {SYS_times, {at}}, {SYS_getitimer, {one(kItimer), at}},
    {SYS_setitimer, {one(kItimer), time, at}}, {SYS_alarm, {any}}, {SYS_timer_create, {one(kClock), ints(16), at}},
    {SYS_timer_settime, {one(kTimerId), any, time, at}}, {SYS_timer_gettime, {one(kTimerId), at}}, {SYS_timer_getoverrun, {one(kTimerId)}},
    {SYS_timer_delete, {one(kTimerId)}}, {SYS_io_uring_setup, {any, ints(30)}},
    {SYS_io_uring_enter, {fd, any, any, flags(kUringEnter), at, size}}, {SYS_io_uring_enter, {fd, any, any, flags(kUringEnter), words(3), {Shape::Fixed, {}, 24}}},
    {SYS_io_uring_register, {fd, one(kUringRegister), iov, count}}, {SYS_io_uring_register, {fd, one(kUringRegister), ints(8), count}},
};

}  // namespace

std::span<const CallShape> call_shapes() { return kShapes; }

}  // namespace ramet::fuzz
