# Children of an unchanged python3: subprocess and multiprocessing.
import multiprocessing
import os
import signal
import subprocess
import sys


def square(x):
    return x * x


def put(queue, name):
    queue.put((name, os.getppid() == PARENT))


def add(value, rounds):
    for _ in range(rounds):
        with value.get_lock():
            value.value += 1


def echo(connection):
    while (message := connection.recv()) is not None:
        connection.send(message[::-1])


PARENT = os.getpid()

if __name__ == "__main__":
    print(subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True).stdout, end="")
    print(subprocess.check_output("ls -d /usr /bin; exit 0", shell=True, text=True), end="")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        print(len(cat.communicate(b"x" * 300000)[0]))
    print(subprocess.call(["/bin/sh", "-c", "kill -TERM $$"]), subprocess.call(["/bin/false"]))
    try:
        subprocess.run(["/no/such/program"])
    except FileNotFoundError as error:
        print(error)
    try:
        subprocess.run(["/bin/sleep", "100"], timeout=0.2)
    except subprocess.TimeoutExpired:
        print("timed out")
    one = subprocess.Popen(["seq", "1", "500"], stdout=subprocess.PIPE)
    two = subprocess.Popen(["wc", "-l"], stdin=one.stdout, stdout=subprocess.PIPE)
    one.stdout.close()
    print(two.communicate()[0].decode().strip(), one.wait(), two.wait())
    print(os.system("exit 3") >> 8, os.popen("echo popen").read().strip())
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", "import os; os._exit(12)"], os.environ)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with context.Pool(3) as pool:
            print(method, pool.map(square, range(10)))
    queue = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=put, args=(queue, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    print(sorted(queue.get() for _ in workers))
    for worker in workers:
        worker.join()
    value = multiprocessing.Value("i", 0)
    workers = [multiprocessing.Process(target=add, args=(value, 100)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(value.value, [worker.exitcode for worker in workers])
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=echo, args=(there,))
    worker.start()
    here.send("abc")
    print(here.recv())
    here.send(None)
    worker.join()
    worker = multiprocessing.Process(target=signal.pause)
    worker.start()
    worker.terminate()
    worker.join()
    print(worker.exitcode)
