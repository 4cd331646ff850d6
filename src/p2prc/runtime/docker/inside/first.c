/* The first process of a container: kills on request, reaps, ends with its time; and `dial`.
 *
 * It runs in any image, an empty one too: no library, a few kernel calls. `scripts/build-first.sh`
 * builds it; what it built lies beside this file, one for each processor.
 *
 *   first SECONDS         Serve until so long after the machine's start, its sleep counted: a wall
 *                         clock may be set. Each request is a line on standard input:
 *                           a NUMBER        kill everything else in here
 *                           g PID NUMBER    kill one process group
 *                         and is answered by `NUMBER` on a line once what it named is gone
 *                         (a group: once it was told). `ready` comes first.
 *   first dial PORT       Join standard input and output to a port of our own loopback.
 *                         Says `+` first when something listens there, else exits with 3.
 */
typedef long word;
typedef unsigned long uword;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, POLL_WITH = 271, SOCKET = 41, CONNECT = 42, SHUTDOWN = 48, EXIT = 231,
       WAIT4 = 61, KILL = 62, CLOCK = 228, CLOSE = 3, NANOSLEEP = 35,
       CONTROL = 157 };
static word call(word n, word a, word b, word c, word d, word e)
{
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    word answer;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return answer;
}
__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined(__aarch64__)
enum { READ = 63, WRITE = 64, POLL_WITH = 73, SOCKET = 198, CONNECT = 203, SHUTDOWN = 210,
       EXIT = 94, WAIT4 = 260, KILL = 129, CLOCK = 113, CLOSE = 57,
       NANOSLEEP = 101, CONTROL = 167 };
static word call(word n, word a, word b, word c, word d, word e)
{
    register word x8 __asm__("x8") = n;
    register word x0 __asm__("x0") = a;
    register word x1 __asm__("x1") = b;
    register word x2 __asm__("x2") = c;
    register word x3 __asm__("x3") = d;
    register word x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x0, sp\n bl begin\n");
#else
#error "this processor is not known here"
#endif

enum { NO_SUCH_PROCESS = -3, AGAIN = -11, INTERRUPTED = -4, IN = 1, GONE = 0x10 | 8,
       NO_HANG = 1, ALL_KINDS = 0x40000000, KILLED = 9, LONGEST_WAIT_S = 1, SET_DUMPABLE = 4,
       SINCE_START = 7 };

struct span { word seconds, nanoseconds; };
struct watched { int descriptor; short wanted, found; };

static word write_all(int descriptor, const char *from, word count)
{
    while (count > 0) {
        word written = call(WRITE, descriptor, (word)from, count, 0, 0);
        if (written == INTERRUPTED)
            continue;
        if (written <= 0)
            return -1;
        from += written;
        count -= written;
    }
    return 0;
}

static uword number_at(const char **at)
{
    uword found = 0;
    while (**at == ' ')
        ++*at;
    while (**at >= '0' && **at <= '9' && found < 1UL << 50)
        found = found * 10 + (uword)(*(*at)++ - '0');
    return found;
}

static void tell(uword number)
{
    char text[24];
    int at = sizeof text;
    text[--at] = '\n';
    do
        text[--at] = (char)('0' + number % 10);
    while (number /= 10);
    write_all(1, text + at, (word)sizeof text - at);
}

static void reap(void)
{
    while (call(WAIT4, -1, 0, NO_HANG | ALL_KINDS, 0, 0) > 0)
        ;
}

/* The kernel tells everyone at once, so that nobody forks away; it counts the dead until they are
 * reaped, by us or by whoever started them from outside. */
static void kill_all(void)
{
    struct span pause = { 0, 500000 };
    while (call(KILL, -1, KILLED, 0, 0, 0) != NO_SUCH_PROCESS) {
        reap();
        call(NANOSLEEP, (word)&pause, 0, 0, 0, 0);
    }
}

static void obey(const char *line)
{
    const char *at = line + 1;
    if (*line == 'a') {
        kill_all();
    } else if (*line == 'g') {
        word group = (word)number_at(&at);
        if (group > 1)
            call(KILL, -group, KILLED, 0, 0, 0);
    }
    tell(number_at(&at));
}

static int serve(uword until)
{
    char line[128];
    uword length = 0;
    int is_deaf = 0;
    struct span now;
    /* The tenant has our user id: it must not be able to trace us. */
    call(CONTROL, SET_DUMPABLE, 0, 0, 0, 0);
    write_all(1, "ready\n", 6);
    for (;;) {
        struct watched input = { 0, IN, 0 };
        struct span wait = { LONGEST_WAIT_S, 0 };
        call(CLOCK, SINCE_START, (word)&now, 0, 0, 0);
        if ((uword)now.seconds >= until)
            return 0;
        call(POLL_WITH, (word)&input, is_deaf ? 0 : 1, (word)&wait, 0, 0);
        reap();
        if (is_deaf || !input.found)
            continue;
        char byte;
        word count = call(READ, 0, (word)&byte, 1, 0, 0);
        if (count == 0 || (count < 0 && count != AGAIN && count != INTERRUPTED)) {
            is_deaf = 1;
        } else if (count == 1 && byte == '\n') {
            line[length] = 0;
            if (length)
                obey(line);
            length = 0;
        } else if (count == 1 && length < sizeof line - 1) {
            line[length++] = byte;
        }
    }
}

struct address4 { unsigned short family, port; unsigned char host[4], rest[8]; };
struct address6 { unsigned short family, port; unsigned flow; unsigned char host[16]; unsigned scope; };

static word connected(unsigned short port)
{
    struct address4 four = { 2, port, { 127, 0, 0, 1 }, { 0 } };
    struct address6 six = { 10, port, 0, { [15] = 1 }, 0 };
    word with = call(SOCKET, 2, 1, 0, 0, 0);
    if (with >= 0 && call(CONNECT, with, (word)&four, sizeof four, 0, 0) == 0)
        return with;
    if (with >= 0)
        call(CLOSE, with, 0, 0, 0, 0);
    with = call(SOCKET, 10, 1, 0, 0, 0);
    if (with >= 0 && call(CONNECT, with, (word)&six, sizeof six, 0, 0) == 0)
        return with;
    return -1;
}

static char room[32768];

static int dial(uword port)
{
    word with = connected((unsigned short)((port & 255) << 8 | port >> 8));
    if (with < 0)
        return 3;
    if (write_all(1, "+", 1) < 0)
        return 1;
    struct watched both[2] = { { 0, IN, 0 }, { (int)with, IN, 0 } };
    for (;;) {
        word ready = call(POLL_WITH, (word)both, 2, 0, 0, 0);
        if (ready < 0 && ready != INTERRUPTED)
            return 1;
        if (both[0].descriptor >= 0 && both[0].found & (IN | GONE)) {
            word count = call(READ, 0, (word)room, sizeof room, 0, 0);
            if (count > 0 ? write_all((int)with, room, count) < 0 : count != INTERRUPTED) {
                call(SHUTDOWN, with, 1, 0, 0, 0);
                both[0].descriptor = -1;
            }
        }
        if (both[1].found & (IN | GONE)) {
            word count = call(READ, with, (word)room, sizeof room, 0, 0);
            if (count > 0 ? write_all(1, room, count) < 0 : count != INTERRUPTED)
                return 0;
        }
    }
}

__attribute__((used, noreturn)) static void begin(word *stack)
{
    const char **words = (const char **)(stack + 1);
    int status = 2;
    if (stack[0] == 3 && words[1][0] == 'd')
        status = dial(number_at(&words[2]));
    else if (stack[0] == 2)
        status = serve(number_at(&words[1]));
    call(EXIT, status, 0, 0, 0, 0);
    for (;;)
        ;
}
