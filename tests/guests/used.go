// A program that was busy: it has made random bytes and waited in its poller, and then reads its input.
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"time"
)

func id() string {
	b := make([]byte, 8)
	rand.Read(b)
	return fmt.Sprintf("%x", b)
}

func main() {
	id()
	done := make(chan int)
	for i := 0; i < 4; i++ {
		go func() { time.Sleep(time.Millisecond); runtime.GC(); done <- 1 }()
	}
	for i := 0; i < 4; i++ {
		<-done
	}
	r, w, _ := os.Pipe()
	go func() { w.Write([]byte("x")) }()
	b := make([]byte, 1)
	r.Read(b)
	bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Println(os.Getpid(), id())
}
