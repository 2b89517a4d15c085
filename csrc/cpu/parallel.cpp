#include "cpu/parallel.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gradfuse {

namespace {

using Task = void (*)(const void* context, std::int64_t k);

#if defined(__SSE__)
void relax() { _mm_pause(); }
unsigned get_float_mode() { return _mm_getcsr(); }
void set_float_mode(unsigned mode) { _mm_setcsr(mode); }
#else
void relax() {}
unsigned get_float_mode() { return 0; }
void set_float_mode(unsigned) {}
#endif

// The tasks that one member of a job takes first, in order, so that in the next call a core gets the same part of an
// array.
struct alignas(64) Share {
    std::atomic<std::int64_t> next;
    std::int64_t end;
};

// The work of one call. Its members are the threads that join. A thread that has finished its own share takes tasks
// from the shares of others.
class Job {
public:
    Job(std::int64_t tasks, Task task, const void* context, int members)
        : task_(task), context_(context), members_(members), shares_(new Share[std::size_t(members)]) {
        for (int m = 0; m < members; ++m) {
            shares_[m].next = tasks * m / members;
            shares_[m].end = tasks * (m + 1) / members;
        }
    }

    void work(int member) {
        for (int i = 0; i < members_; ++i) {
            Share& share = shares_[(member + i) % members_];
            for (std::int64_t k; (k = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
                try {
                    task_(context_, k);
                } catch (...) {
                    if (!failed_.exchange(true)) error_ = std::current_exception();
                }
            }
        }
    }

    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

    // Guarded by the lock of the team; only `helpers` is also read without it.
    bool full() const { return joined == members_; }
    int joined = 1;  // the caller is member 0
    std::atomic<int> helpers{0};
    const unsigned float_mode = get_float_mode();  // the caller's mode for rounding and denormals, used by all threads

private:
    const Task task_;
    const void* const context_;
    const int members_;
    const std::unique_ptr<Share[]> shares_;
    std::atomic<bool> failed_{false};
    std::exception_ptr error_;
};

// Threads that sleep between jobs. The caller works too, and waits only for tasks that other threads have begun. So no
// call waits for a thread that has no core.
class Team {
public:
    explicit Team(int size) : size(size) {}

    void run(std::int64_t tasks, Task task, const void* context) {
        const int members = int(std::min<std::int64_t>(tasks, size));
        Job job(tasks, task, context, members);
        {
            std::lock_guard lock(mutex_);
            hire(members - 1);
            post(job);
        }
        for (int m = 1; m < members; ++m) wake_.notify_one();
        job.work(0);
        spin([&] { return job.helpers.load(std::memory_order_relaxed) == 0; });
        {
            std::unique_lock lock(mutex_);
            withdraw(job);
            done_.wait(lock, [&] { return job.helpers == 0; });
        }
        job.rethrow();
    }

    std::atomic<int> size;  // the number of threads, including the caller

private:
    // Waits for some microseconds. The wait for the next call or the last task is mostly shorter than the time to sleep
    // and wake up. Yielding gives the core to other threads that have work, such as those of a BLAS.
    template <class Condition>
    static void spin(const Condition& condition) {
        for (int i = 1; i <= 512 && !condition(); ++i) i % 16 ? relax() : std::this_thread::yield();
    }

    void post(Job& job) {
        jobs_.push_back(&job);
        ++open_;
    }
    void withdraw(Job& job) {
        const auto found = std::find(jobs_.begin(), jobs_.end(), &job);
        if (found == jobs_.end()) return;
        jobs_.erase(found);
        --open_;
    }

    // Threads are started when they are first needed. If the system cannot start more, the existing ones do the work.
    void hire(int helpers) {
        while (hired_ < helpers && start()) ++hired_;
    }

    bool start() {
        sigset_t blocked, before;  // blocks all signals in the new threads, except faults that a thread causes itself
        sigfillset(&blocked);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&blocked, fault);
        pthread_sigmask(SIG_SETMASK, &blocked, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    void serve() {
        while (true) {
            spin([&] { return open_.load(std::memory_order_relaxed) > 0; });
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return !jobs_.empty(); });
            Job& job = *jobs_.front();
            const int member = job.joined++;
            ++job.helpers;
            if (job.full()) withdraw(job);
            lock.unlock();
            set_float_mode(job.float_mode);
            job.work(member);
            lock.lock();
            withdraw(job);
            if (--job.helpers == 0) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<Job*> jobs_;    // jobs that more threads may join
    std::atomic<int> open_{0};  // their number, to be read without the lock
    int hired_ = 0;
};

int processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return int(std::max(1u, std::thread::hardware_concurrency()));
}

// Never freed, because its threads may still run at exit. A child of fork has no threads, and locks that they held stay
// locked. So the child makes a new team.
Team* team = [] {
    pthread_atfork(nullptr, nullptr, [] { team = new Team(team->size); });
    return new Team(processors());
}();

}  // namespace

int get_num_threads() { return team->size; }
void set_num_threads(int n) { team->size = n; }

void parallel_for(std::int64_t tasks, Task task, const void* context) {
    if (team->size == 1) {
        for (std::int64_t k = 0; k < tasks; ++k) task(context, k);
    } else {
        team->run(tasks, task, context);
    }
}

}  // namespace gradfuse
