// A DTLS client on pion: main PORT KEY-HEX IDENTITY... connects once for each identity with a connection id, says its
// identity, expects "echo " and the same, changes its own port, says it again, and closes. Prints as JSON how each ended.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
)

// moving is a packet connection whose local port can be changed under a session, as a NAT does it.
type moving struct {
	mu   sync.Mutex
	conn net.PacketConn
}

func listen() net.PacketConn {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	return conn
}

func (m *moving) now() net.PacketConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conn
}

func (m *moving) move() {
	fresh := listen()
	m.mu.Lock()
	old := m.conn
	m.conn = fresh
	m.mu.Unlock()
	old.Close()
}

func (m *moving) ReadFrom(into []byte) (int, net.Addr, error) {
	for {
		conn := m.now()
		size, from, err := conn.ReadFrom(into)
		if err == nil || conn == m.now() {
			return size, from, err
		}
	}
}

func (m *moving) WriteTo(data []byte, to net.Addr) (int, error) { return m.now().WriteTo(data, to) }
func (m *moving) Close() error                                  { return m.now().Close() }
func (m *moving) LocalAddr() net.Addr                           { return m.now().LocalAddr() }
func (m *moving) SetDeadline(at time.Time) error                { return m.now().SetDeadline(at) }
func (m *moving) SetReadDeadline(at time.Time) error            { return m.now().SetReadDeadline(at) }
func (m *moving) SetWriteDeadline(at time.Time) error           { return m.now().SetWriteDeadline(at) }

func exchange(conn *dtls.Conn, identity string) error {
	if _, err := conn.Write([]byte(identity)); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buffer := make([]byte, 2000)
	size, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	if string(buffer[:size]) != "echo "+identity {
		return fmt.Errorf("heard %q", buffer[:size])
	}
	return nil
}

func try(port int, key []byte, identity string) error {
	way := &moving{conn: listen()}
	conn, err := dtls.Client(way, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, &dtls.Config{
		PSK:                   func([]byte) ([]byte, error) { return key, nil },
		PSKIdentityHint:       []byte(identity),
		CipherSuites:          []dtls.CipherSuiteID{dtls.TLS_PSK_WITH_AES_128_CCM_8},
		ConnectionIDGenerator: dtls.RandomCIDGenerator(5),
		FlightInterval:        time.Second,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	defer conn.Close()
	for range 3 {
		if err := exchange(conn, identity); err != nil {
			return err
		}
		way.move()
	}
	return nil
}

func main() {
	port, _ := strconv.Atoi(os.Args[1])
	key, _ := hex.DecodeString(os.Args[2])
	ended := map[string]string{}
	for _, identity := range os.Args[3:] {
		ended[identity] = "well"
		if err := try(port, key, identity); err != nil {
			ended[identity] = err.Error()
		}
	}
	json.NewEncoder(os.Stdout).Encode(ended)
}
