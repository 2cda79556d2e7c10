// A Go program that leans on the runtime: garbage collection under load, many goroutines, channels,
// timers, and the preemption signal for a goroutine that never yields. gc [SCALE]
package main

import (
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

type node struct {
	left, right *node
	value       int
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{value: 1}
	}
	return &node{tree(depth - 1), tree(depth - 1), depth}
}

func (n *node) sum() int {
	if n == nil {
		return 0
	}
	return n.value + n.left.sum() + n.right.sum()
}

func collect(scale int) {
	long := tree(14)
	var wg sync.WaitGroup
	var total int64
	for g := 0; g < 4; g++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 10*scale; i++ {
				atomic.AddInt64(&total, int64(tree(11).sum()))
			}
		}()
	}
	wg.Wait()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	for stats.NumGC == 0 { // collects while others run: on a slow machine it may not have come to an end yet
		tree(11)
		runtime.ReadMemStats(&stats)
	}
	fmt.Println("trees", total, long.sum(), "collected", stats.NumGC > 0)
}

func goroutines() {
	const n = 1000
	first := make(chan int)
	in := first
	for i := 0; i < n; i++ {
		out := make(chan int)
		go func(in, out chan int) {
			for v := range in {
				out <- v + 1
			}
			close(out)
		}(in, out)
		in = out
	}
	go func() {
		for i := 0; i < 20; i++ {
			first <- i
		}
		close(first)
	}()
	sum := 0
	for v := range in {
		sum += v
	}
	fmt.Println("chain of", n, "goroutines", sum)
}

func timers() {
	start := time.Now()
	fired := make(chan int, 10)
	for i := 10; i > 0; i-- {
		i := i
		time.AfterFunc(time.Duration(i)*3*time.Millisecond, func() { fired <- i })
	}
	var order []int
	for i := 0; i < 10; i++ {
		order = append(order, <-fired)
	}
	sort.Ints(order)
	ticker := time.NewTicker(2 * time.Millisecond)
	for i := 0; i < 5; i++ {
		<-ticker.C
	}
	ticker.Stop()
	fmt.Println("timers", order, time.Since(start) >= 30*time.Millisecond)
}

func spin(stop *int64) {
	for x := uint64(1); ; x = x*6364136223846793005 + 1 { // no call, no allocation: only a signal stops it
		if x == 0 || *stop != 0 {
			return
		}
	}
}

func preemption() {
	runtime.GOMAXPROCS(1)
	var stop int64
	var done sync.WaitGroup
	done.Add(1)
	go func() { spin(&stop); done.Done() }()
	time.Sleep(time.Millisecond)
	runtime.GC() // must stop the world, the spinner included
	atomic.StoreInt64(&stop, 1)
	done.Wait()
	fmt.Println("a spinning goroutine was preempted")
	runtime.GOMAXPROCS(2)
}

func failures() {
	defer func() { fmt.Println("recovered:", recover()) }()
	var p *node
	fmt.Println(p.value)
}

func main() {
	scale := 4
	if len(os.Args) > 1 {
		scale, _ = strconv.Atoi(os.Args[1])
	}
	collect(scale)
	goroutines()
	timers()
	preemption()
	failures()
	h := fnv.New64a()
	for i := 0; i < 100000*scale; i++ {
		fmt.Fprintf(h, "%d", i)
	}
	fmt.Printf("hash %x\n", h.Sum64())
}
