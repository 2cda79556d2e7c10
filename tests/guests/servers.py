# What multiprocessing does through named sockets: managers, the fork server, and open files sent to other processes.
import multiprocessing
import multiprocessing.connection
import os
import threading


def note(table, names, n):
    table[n] = n * n
    names.append(os.getppid() == PARENT)


def square(x):
    return x * x


PARENT = os.getpid()

if __name__ == "__main__":
    with multiprocessing.Manager() as manager:
        table, names = manager.dict(), manager.list()
        workers = [multiprocessing.Process(target=note, args=(table, names, n)) for n in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(sorted(table.items()), list(names))
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        print(pool.map(square, range(5)))
    here, there = multiprocessing.Pipe()
    queue = multiprocessing.Queue()
    queue.put(there)  # a thread of ours sends the descriptor to whoever takes it out
    here.send("through a connection that came out of a queue")
    print(queue.get().recv())
    with multiprocessing.connection.Listener(family="AF_UNIX", authkey=b"key") as listener:
        answer = []
        server = threading.Thread(target=lambda: answer.append(listener.accept().recv()))
        server.start()
        with multiprocessing.connection.Client(listener.address, authkey=b"key") as client:
            client.send(["hello", 1])
        server.join()
        print(answer)
